"""The work list of a grid: the missing artifacts of its cells, as tasks for workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ddbench.config.experiment import Experiment
from ddbench.core.errors import DDBenchError, PluginError
from ddbench.pipeline.pipeline import Pipeline


@dataclass(frozen=True, eq=False)
class WorkItem:
    """A unit of work: the parts of one stage of an experiment that one worker builds together.

    Attributes:
        stage: The name of the stage.
        parts: The numbers of the parts.
        experiment: The experiment that needs them.
        outputs: The artifacts that it builds, as STAGE/KEY.
        inputs: The artifacts that it needs. An item whose inputs are all built can start.
        name: Its name for messages.
    """

    stage: str
    parts: tuple[int, ...]
    experiment: Experiment
    outputs: tuple[str, ...]
    inputs: frozenset[str]
    name: str


class RemoteTraceback(Exception):
    """The traceback of an exception that was raised in a worker, as text."""


@dataclass(frozen=True)
class Failure:
    """The reason why an item failed.

    Attributes:
        reason: One line.
        traceback: The traceback if a plugin's code raised the exception, else empty.
        cause: The cause of the error (`DDBenchError.cause`). Empty: the reason.
    """

    reason: str
    traceback: str = ""
    cause: str = ""

    def error(self) -> DDBenchError:
        """Returns the error to raise when the result of the cell is requested."""
        if not self.traceback:
            return DDBenchError(self.reason, self.cause)
        error = PluginError(self.reason)
        error.__cause__ = RemoteTraceback(f"in a worker:\n{self.traceback}")
        return error


class WorkList:
    """The missing items of a grid. Cells that share an artifact share its item.

    Args:
        pipelines: The cells of the grid.
    """

    def __init__(self, pipelines: Sequence[Pipeline]) -> None:
        self._waiting: dict[WorkItem, None] = {}
        self._running: set[WorkItem] = set()
        self._pending: dict[str, WorkItem] = {}  # the key is the artifact that the item builds
        self._failures: dict[str, Failure] = {}
        self._cells = {id(pipeline): self._add_cell(pipeline) for pipeline in pipelines}
        self.total = len(self._waiting)

    @property
    def remaining(self) -> int:
        """The number of items that are neither done nor failed."""
        return len(self._waiting) + len(self._running)

    def pop_ready(self) -> WorkItem | None:
        """Returns the first item that can start, in the order of the cells, and marks it as running."""
        for item in self._waiting:
            if self._pending.keys().isdisjoint(item.inputs):
                del self._waiting[item]
                self._running.add(item)
                return item
        return None

    def mark_done(self, item: WorkItem) -> None:
        """Records that the outputs of an item are in the cache."""
        self._running.discard(item)
        for name in item.outputs:
            del self._pending[name]

    def requeue(self, item: WorkItem) -> None:
        """Puts an unfinished item back at the front of the queue."""
        self._running.discard(item)
        self._waiting = {item: None, **self._waiting}

    def mark_failed(self, item: WorkItem, failure: Failure) -> None:
        """Records that an item failed, and marks every item that needs its outputs as failed."""
        self.mark_done(item)
        self._failures |= dict.fromkeys(item.outputs, failure)
        for other in [other for other in self._waiting if not other.inputs.isdisjoint(item.outputs)]:
            if self._waiting.pop(other, True) is None:
                self.mark_failed(other, failure)

    def failure(self, pipeline: Pipeline) -> Failure | None:
        """Returns the reason why a cell cannot be computed, or None."""
        names = self._cells.get(id(pipeline), ())
        return next((self._failures[name] for name in names if name in self._failures), None)

    def is_done(self, pipeline: Pipeline) -> bool:
        """Returns whether every artifact of a cell exists."""
        return self._pending.keys().isdisjoint(self._cells.get(id(pipeline), ()))

    def _add_cell(self, pipeline: Pipeline) -> list[str]:
        """Adds the items of a cell, stage by stage. Returns the names of all artifacts of the cell."""
        missing: dict[str, list[int]] = {}
        for name, part in pipeline.missing():
            missing.setdefault(name, []).append(part)
        names: list[str] = []
        for stage in pipeline.graph:
            if stage.name == "data":  # the data are decoded before any item starts
                continue
            outputs = {part: _artifact_name(pipeline, stage.name, part) for part in stage.parts(pipeline)}
            names += outputs.values()
            todo = [part for part in missing.get(stage.name, ()) if outputs[part] not in self._pending]
            size = stage.parts_per_task(pipeline)
            for start in range(0, len(todo), size):
                parts = todo[start : start + size]
                inputs = {need for part in parts for need in stage.needs(pipeline, part)}
                item = WorkItem(
                    stage=stage.name,
                    parts=tuple(parts),
                    experiment=pipeline.experiment,
                    outputs=tuple(outputs[part] for part in parts),
                    inputs=frozenset(_artifact_name(pipeline, *need) for need in inputs if need[0] != "data"),
                    name=_item_name(stage.name, (stage.label(pipeline, part) for part in parts)),
                )
                self._waiting[item] = None
                self._pending |= dict.fromkeys(item.outputs, item)
        return names


def _artifact_name(pipeline: Pipeline, stage: str, part: int) -> str:
    return f"{stage}/{pipeline.cache_key(stage, part)}"


def _item_name(stage: str, labels: Iterable[str]) -> str:
    first, *others = labels
    last = f" to {others[-1]}" if others else ""
    return f"{stage} {first}{last}".strip()
