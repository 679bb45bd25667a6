"""Reads the distilled sets of records from the cache, for figures that show them side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ddbench.api.dataset import MissingDataError
from ddbench.config.schema import DataConfig
from ddbench.core.canonical import canonical_json
from ddbench.core.errors import DDBenchError
from ddbench.data.dataset import Dataset
from ddbench.distillation.distilled_set import as_bytes
from ddbench.results.command import command_of
from ddbench.results.conditions import (
    Facts,
    data_settings,
    dataset_identity,
    dataset_names,
    distillation_config,
)
from ddbench.results.labels import key_note, natural_order, recipe_label, set_labels
from ddbench.results.records import Record
from ddbench.results.stored_sets import StoredSet, stored_set

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.pipeline.workspace import Workspace


MAX_SETS = 8
"""The most sets that are shown side by side."""


@dataclass(frozen=True)
class LabelledSet:
    """A distilled set with its label.

    Attributes:
        label: Label that distinguishes it from the other sets.
        record: A record of it.
        stored: The result of `ddbench.results.stored_sets.stored_set`.
    """

    label: str
    record: Record
    stored: StoredSet

    @property
    def images(self) -> Tensor:
        """The stored images, uint8 [m, 3, S, S]."""
        return as_bytes(self.stored.images)

    @property
    def labels(self) -> Tensor:
        """The labels of the images, int64 [m]."""
        return self.stored.labels


def select_sets(records: Sequence[Record], workspace: Workspace, warn: Callable[[str], None]) -> list[LabelledSet]:
    """Returns the set with the lowest seed for each configuration of the distillation, in the order of their labels.

    Args:
        records: Records of one dataset, image size and IPC.
        workspace: The cache and the datasets.
        warn: Called with a message for each set that is not in the cache.

    Raises:
        DDBenchError: If the records have several datasets, image sizes or IPCs, if no set of a method is in the cache,
            or if there are more than MAX_SETS sets.
    """
    choices: dict[str, set[Any]] = {
        "--dataset": set(dataset_names(records).values()),
        "--image-size": {record.image_size for record in records},
        "--ipc": {record.ipc for record in records},
    }
    for option, values in choices.items():
        if len(values) > 1:
            raise DDBenchError(f"there are records of {', '.join(map(str, sorted(values)))}: choose one with {option}")
    stored = _read_sets(_one_record_per_set(records), workspace, warn)
    kept = [record for record, _ in stored]
    labels = set_labels(kept, [_facts(record) for record in kept])
    sets = [LabelledSet(label, *pair) for label, pair in zip(labels, stored, strict=True)]
    sets.sort(key=lambda labelled: natural_order(labelled.label))
    if len(sets) > MAX_SETS:
        names = "; ".join(labelled.label for labelled in sets)
        raise DDBenchError(
            f"{len(sets)} sets, but {MAX_SETS} fit side by side: choose with --methods or --recipe: {names}"
        )
    return sets


def _one_record_per_set(records: Sequence[Record]) -> list[Record]:
    by_facts: dict[str, Record] = {}
    for record in sorted(records, key=lambda record: (record.seed + record.repeat, record.name)):
        by_facts.setdefault(canonical_json(_facts(record)), record)
    # Different settings can give the same set, e.g. the JPEG quality for real images.
    by_digest: dict[str, Record] = {}
    for record in by_facts.values():
        by_digest.setdefault(record.distilled_digest, record)
    return list(by_digest.values())


def _read_sets(
    records: Sequence[Record], workspace: Workspace, warn: Callable[[str], None]
) -> list[tuple[Record, StoredSet]]:
    stored_sets: list[tuple[Record, StoredSet]] = []
    missing: list[tuple[Record, str]] = []
    for record in records:
        try:
            stored = stored_set(record, workspace.cache, workspace.dataset)
        except MissingDataError:
            raise
        except DDBenchError as error:
            missing.append((record, str(error)))
            continue
        if stored is None:
            missing.append((record, f"the set of {record.name} is not in the cache"))
        else:
            stored_sets.append((record, stored))
    for record, reason in missing:
        if all(other.method != record.method for other, _ in stored_sets):
            raise DDBenchError(f"{reason}; reproduce it: {command_of(record)}")
        warn(f"left out: {reason}")
    return stored_sets


def sets_caption(sets: Sequence[LabelledSet]) -> str:
    """Returns the part of a caption that states the recipes of the sets."""
    recipes = ", ".join(sorted({recipe_label(labelled.record) for labelled in sets}))
    return f"Recipe: {recipes}; the first distilled set of each.{key_note(labelled.label for labelled in sets)}"


def _facts(record: Record) -> Facts:
    return {"dataset": dataset_identity(record), **distillation_config(record), **data_settings(record)}


def dataset_of(record: Record, workspace: Workspace) -> Dataset:
    """Opens the real images from which the set of a record was made."""
    return workspace.dataset(record.configuration["dataset"], DataConfig(**record.configuration["data"]))


def class_titles(labelled: LabelledSet, workspace: Workspace) -> Sequence[str]:
    """Returns readable names of the classes, or the names in the files if the real images are missing."""
    try:
        return dataset_of(labelled.record, workspace).info.class_titles
    except MissingDataError:
        return labelled.stored.class_names
