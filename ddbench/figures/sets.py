"""The distilled sets of records, out of the cache, for figures that show them side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddbench.api.dataset import MissingDataError
from ddbench.config.schema import DataConfig
from ddbench.core.errors import DDBenchError
from ddbench.data.dataset import Dataset
from ddbench.figures.selecting import command_of
from ddbench.results.conditions import data_settings, distillation_config, key_note, natural_order, recipe, set_labels
from ddbench.results.export import stored_set
from ddbench.results.records import Record
from ddbench.storage.cache import canonical_json

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.pipeline.workspace import Workspace

    Stored = tuple[Tensor, Tensor, Tensor, list[str]]

MOST = 8
"""Sets that can be told apart side by side."""


@dataclass(frozen=True)
class LabelledSet:
    """A distilled set: what it is called, a record of it, and what `stored_set` gives."""

    label: str
    record: Record
    stored: Stored

    @property
    def images(self) -> Tensor:
        """uint8 [m, 3, S, S]"""
        return self.stored[0]

    @property
    def labels(self) -> Tensor:
        """int64 [m]"""
        return self.stored[1]


def select_sets(found: Sequence[Record], workspace: Workspace, warn: Callable[[str], None]) -> list[LabelledSet]:
    """The first distilled set of every way of making one, by label; all of one dataset, size and IPC.

    `warn` is told of a set that is not in the cache. Raises DDBenchError where that leaves a method without any, and
    where records are of several datasets, sizes or IPCs, or of more ways than MOST.
    """
    for name, option in (("dataset", "--dataset"), ("image_size", "--image-size"), ("ipc", "--ipc")):
        values = sorted({getattr(record, name) for record in found})
        if len(values) > 1:
            raise DDBenchError(f"there are records of {', '.join(map(str, values))}: choose one with {option}")
    makers: dict[str, Record] = {}
    for record in sorted(found, key=lambda record: (record.seed + record.repeat, record.name)):
        makers.setdefault(canonical_json(_facts(record)), record)
    # One and the same set comes of several ways where settings do not reach it (JPEG quality and real images).
    chosen: dict[str, Record] = {}
    for record in makers.values():
        chosen.setdefault(record.distilled_digest, record)
    kept: list[tuple[Record, Stored]] = []
    gone: list[tuple[Record, str]] = []
    for record in chosen.values():
        try:
            stored = stored_set(record, workspace.cache, workspace.dataset)
        except MissingDataError:
            raise
        except DDBenchError as error:
            gone.append((record, str(error)))
            continue
        if stored is None:
            gone.append((record, f"the set of {record.name} is not in the cache"))
        else:
            kept.append((record, stored))
    for record, reason in gone:
        if all(one.method != record.method for one, _ in kept):
            raise DDBenchError(f"{reason}; make it again: {command_of(record)}")
        warn(f"left out: {reason}")
    records = [record for record, _ in kept]
    labels = set_labels(records, [_facts(record) for record in records])
    shown = [LabelledSet(label, *one) for label, one in zip(labels, kept, strict=True)]
    shown.sort(key=lambda one: natural_order(one.label))
    if len(shown) > MOST:
        names = "; ".join(one.label for one in shown)
        raise DDBenchError(
            f"{len(shown)} sets, but {MOST} fit side by side: choose with --methods or --recipe: {names}"
        )
    return shown


def sets_caption(shown: Sequence[LabelledSet]) -> str:
    """The caption's part on what made the sets."""
    recipes = {recipe(one.record) for one in shown}
    return (
        f"Recipe: {', '.join(sorted(recipes))}; the first distilled set of each.{key_note(one.label for one in shown)}"
    )


def _facts(record: Record) -> dict[str, object]:
    return {**distillation_config(record), **data_settings(record)}


def dataset_of(record: Record, workspace: Workspace) -> Dataset:
    """The real images that a record's set stands for."""
    return workspace.dataset(record.configuration["dataset"], DataConfig(**record.configuration["data"]))


def class_titles(shown: LabelledSet, workspace: Workspace) -> Sequence[str]:
    """The classes' names for people; those of the files where the real images are not at hand."""
    try:
        return dataset_of(shown.record, workspace).info.class_titles
    except MissingDataError:
        return shown.stored[3]
