"""The distilled sets of records, out of the cache, for figures that show them side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddbench.cache import canonical
from ddbench.config import DataConfig
from ddbench.data.dataset import Dataset
from ddbench.data.spec import MissingDataError
from ddbench.errors import DDBenchError
from ddbench.export import stored_set
from ddbench.figures.measured import called, making, real
from ddbench.figures.selecting import command_of
from ddbench.records import Record

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.stages import Workspace

MOST = 8
"""Sets that can be told apart side by side."""


@dataclass(frozen=True)
class Shown:
    """A distilled set: what it is called, a record of it, images uint8 [m, 3, S, S] and labels int64 [m]."""

    label: str
    record: Record
    images: Tensor
    labels: Tensor
    class_names: list[str]


def sets_of(found: Sequence[Record], workspace: Workspace, warn: Callable[[str], None]) -> list[Shown]:
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
        makers.setdefault(canonical(_facts(record)), record)
    # One and the same set comes of several ways where settings do not reach it (JPEG quality and real images).
    chosen = list({record.distilled_digest: record for record in makers.values()}.values())
    shown = []
    gone: list[tuple[Record, str]] = []
    for label, record in sorted(zip(called(chosen, [_facts(record) for record in chosen]), chosen, strict=True)):
        try:
            stored = stored_set(record, workspace)
        except MissingDataError:
            raise
        except DDBenchError as error:
            gone.append((record, str(error)))
            continue
        if stored is None:
            gone.append((record, f"the set of {record.name} is not in the cache"))
            continue
        images, labels, _, class_names = stored
        shown.append(Shown(label, record, images, labels, class_names))
    for record, reason in gone:
        if all(one.record.method != record.method for one in shown):
            raise DDBenchError(f"{reason}; make it again: {command_of(record)}")
        warn(f"left out: {reason}")
    if len(shown) > MOST:
        names = "; ".join(one.label for one in shown)
        raise DDBenchError(
            f"{len(shown)} sets, but {MOST} fit side by side: choose with --methods or --recipe: {names}"
        )
    return shown


def _facts(record: Record) -> dict[str, object]:
    return {**making(record), **real(record)}


def dataset_of(record: Record, workspace: Workspace) -> Dataset:
    """The real images that a record's set stands for."""
    return workspace.dataset(record.configuration["dataset"], DataConfig(**record.configuration["data"]))


def class_titles(shown: Shown, workspace: Workspace) -> Sequence[str]:
    """The classes' names for people; those of the files where the real images are not at hand."""
    try:
        return dataset_of(shown.record, workspace).info.class_titles
    except MissingDataError:
        return shown.class_names
