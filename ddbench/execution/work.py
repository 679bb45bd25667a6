"""Units of work: the stages of a grid, cut into parts that workers make, each once, in the order of the stage graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddbench.config.experiment import Experiment
from ddbench.core.errors import DDBenchError, PluginError
from ddbench.pipeline.keys import teacher_label
from ddbench.pipeline.pipeline import Pipeline

BLOCKS = 64
"""So many units of work at most are the statistics of one teacher: blocks of classes, not a thousand classes."""


@dataclass(frozen=True, eq=False)
class Work:
    """One unit of work: parts of one stage of an experiment, made by one worker.

    `parts` are classes of statistics, numbers of distilled units, else empty. `makes` and `needs` are artifacts, as
    STAGE/KEY; what needs nothing that is still to do can begin.
    """

    stage: str
    parts: tuple[int, ...]
    experiment: Experiment
    makes: tuple[str, ...]
    needs: frozenset[str]
    name: str


class RemoteTraceback(Exception):
    """The traceback of an exception that was raised in a worker, as text."""


@dataclass(frozen=True)
class Failure:
    """Why a unit of work could not be done; with the traceback where it is the fault of a plugin's code."""

    reason: str
    traceback: str = ""

    def error(self) -> DDBenchError:
        """What is raised where its cell would have been computed."""
        if not self.traceback:
            return DDBenchError(self.reason)
        error = PluginError(self.reason)
        error.__cause__ = RemoteTraceback(f"in a worker:\n{self.traceback}")
        return error


def build_artifacts(pipeline: Pipeline, stage: str, parts: Sequence[int]) -> None:
    """Makes what a unit of work makes; what is in the cache is not made again."""
    if stage == "teacher":
        pipeline.teacher()
    elif stage == "statistics":
        for label in parts:
            pipeline.class_statistics(label)
    elif stage == "distill":
        for number in parts:
            pipeline.unit(pipeline.units[number])
    elif stage == "evaluate":
        pipeline.evaluation()
    else:
        pipeline.transport_cost()


class Plan:
    """The units of work that a grid still needs, each once however many cells share it, and what becomes of them."""

    def __init__(self, pipelines: Sequence[Pipeline]) -> None:
        self._waiting: dict[Work, None] = {}
        self._under_way: set[Work] = set()
        self._makers: dict[str, Work] = {}  # of what is still to do
        self._failed: dict[str, Failure] = {}
        self._cells = {id(pipeline): self._add(pipeline) for pipeline in pipelines}
        self.total = len(self._waiting)

    @property
    def left(self) -> int:
        """How many units of work are neither done nor failed."""
        return len(self._waiting) + len(self._under_way)

    def next(self) -> Work | None:
        """The first unit of work that can begin, in the order of the cells; it is under way from now on."""
        for work in self._waiting:
            if self._makers.keys().isdisjoint(work.needs):
                del self._waiting[work]
                self._under_way.add(work)
                return work
        return None

    def done(self, work: Work) -> None:
        """What it makes is in the cache."""
        self._under_way.discard(work)
        for name in work.makes:
            del self._makers[name]

    def again(self, work: Work) -> None:
        """It was not done and waits once more, before all others."""
        self._under_way.discard(work)
        self._waiting = {work: None, **self._waiting}

    def fail(self, work: Work, failure: Failure) -> None:
        """It cannot be done, nor can what needs it."""
        self.done(work)
        self._failed |= dict.fromkeys(work.makes, failure)
        for other in [other for other in self._waiting if not other.needs.isdisjoint(work.makes)]:
            if self._waiting.pop(other, True) is None:
                self.fail(other, failure)

    def failure(self, pipeline: Pipeline) -> Failure | None:
        """Why this cell cannot be, if a part of it failed."""
        return next((self._failed[name] for name in self._cells.get(id(pipeline), ()) if name in self._failed), None)

    def is_done(self, pipeline: Pipeline) -> bool:
        """Whether all parts of this cell are in the cache."""
        return self._makers.keys().isdisjoint(self._cells.get(id(pipeline), ()))

    def _add(self, pipeline: Pipeline) -> list[str]:
        """The artifacts of a cell; those that are missing and that no cell before it needs become units of work."""
        keys, method, protocol = pipeline.keys, pipeline.method, pipeline.protocol
        experiment, info = pipeline.experiment, pipeline.dataset.info
        with_teacher = method.needs_teacher or protocol.needs_teacher
        measured = with_teacher and experiment.ipc is not None
        teacher, statistics = [], []
        if with_teacher:
            teacher = self._stage(pipeline, "teacher", [keys.teacher()], [()], teacher_label(experiment.teacher))
        if method.needs_teacher or measured:
            all_classes = [keys.statistics(label) for label in range(info.num_classes)]
            needs = [teacher] * info.num_classes
            statistics = self._stage(
                pipeline, "statistics", all_classes, needs, "class", -(-info.num_classes // BLOCKS)
            )
        needs = [
            [*teacher, *(statistics[label] for label in sorted({slot.label for slot in unit.slots}))]
            if method.needs_teacher
            else []
            for unit in pipeline.units
        ]
        all_units = [keys.unit(unit.index) for unit in pipeline.units]
        units = self._stage(pipeline, "distill", all_units, needs, experiment.method_name)
        found = [*teacher, *statistics, *units]
        unit_keys = tuple(name.partition("/")[2] for name in units)
        student = [*units, *(teacher if protocol.needs_teacher else ())]
        found += self._stage(pipeline, "evaluate", [keys.evaluate(unit_keys)], [student], pipeline.student_name)
        if measured:
            made = keys.measure(unit_keys)
            found += self._stage(pipeline, "measure", [made], [[*units, *statistics]], experiment.method_name)
        return found

    def _stage(
        self,
        pipeline: Pipeline,
        stage: str,
        depends_on: Sequence[Mapping[str, Any]],
        needs: Sequence[Iterable[str]],
        name: str,
        block: int = 1,
    ) -> list[str]:
        """The artifacts of a stage, one a part; what is missing of it in units of `block` parts."""
        cache = pipeline.workspace.cache
        names = [f"{stage}/{cache.path(stage, part).stem}" for part in depends_on]
        missing = [
            number
            for number, part in enumerate(depends_on)
            if names[number] not in self._makers and not cache.has(stage, part)
        ]
        for start in range(0, len(missing), block):
            parts = missing[start : start + block]
            which = f" {parts[0] + 1}" + (f"-{parts[-1] + 1}" if len(parts) > 1 else "") if len(names) > 1 else ""
            work = Work(
                stage=stage,
                parts=tuple(parts),
                experiment=pipeline.experiment,
                makes=tuple(names[number] for number in parts),
                needs=frozenset(other for number in parts for other in needs[number]),
                name=f"{stage} {name}{which}",
            )
            self._waiting[work] = None
            self._makers |= dict.fromkeys(work.makes, work)
        return names
