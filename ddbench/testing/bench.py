"""Where the conformance kit runs a method or a protocol: the stages of `ddbench run`, in caches of their own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from unittest import mock

from torch import Tensor

from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator
from ddbench.api.hookspecs import hookimpl
from ddbench.config.experiment import Experiment
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.core.interruption import RunInterrupt
from ddbench.evaluators.protocols import HardLabels
from ddbench.nn.global_state import changed_names
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Built, Cache, Checkpoint, canonical, digest_of
from ddbench.testing import data, watching
from ddbench.testing.elsewhere import NotImportable, make_elsewhere
from ddbench.training import loop

Moment = Literal["save", "report"]

SHARED = ("data", "teacher", "statistics")  # what no method and no protocol makes
TEACHER = ("teacher.epochs=3", "teacher.batch_size=64", "teacher.learning_rate=0.05", "distill.checkpoint_every=3")
BRIEF = ("teacher.batch_size=8",)  # a student on a few real images learns from them in so few epochs
STUDENT = HardLabels(epochs=60, learning_rate=5e-3, min_crop=0.5, cutmix_alpha=None)
STOPS = 3


class Interruption(RunInterrupt):
    """Raised where a kill would strike."""


@dataclass
class Journal:
    """When builds are stopped, how often that is still to be done, and what became of their checkpoints."""

    stop_at: Moment
    left: int = STOPS
    saved: int = 0
    found: int = 0

    def reached(self, moment: Moment) -> None:
        """Raises Interruption where this is one of the moments to stop at."""
        if moment == self.stop_at and self.left:
            self.left -= 1
            raise Interruption


@dataclass(frozen=True)
class WatchedCheckpoint(Checkpoint):
    """A checkpoint that tells a journal what is saved and found."""

    journal: Journal = field(default_factory=lambda: Journal("save", left=0), compare=False)

    def load(self) -> Built | None:
        """As a Checkpoint's."""
        found = super().load()
        self.journal.found += found is not None
        return found

    def save(self, tensors: dict[str, Tensor], meta: Mapping[str, Any]) -> None:
        """As a Checkpoint's; the process may end right after it."""
        super().save(tensors, meta)
        self.journal.saved += 1
        self.journal.reached("save")


class WatchedCache(Cache):
    """A cache that gives the builds of one stage watched checkpoints."""

    def __init__(self, root: Path, stage: str, journal: Journal) -> None:
        super().__init__(root)
        self._stage = stage
        self._journal = journal

    def get(self, stage: str, depends_on: Mapping[str, Any], build: Callable[[Checkpoint], Built]) -> Any:
        """As a Cache's."""

        def watched(slot: Checkpoint) -> Built:
            return build(WatchedCheckpoint(slot.path, slot.warn, self._journal))

        return super().get(stage, depends_on, watched if stage == self._stage else build)


@dataclass(frozen=True)
class Run:
    """One complete run: digests of what was made, by name; what it changed and left behind; where it stands."""

    made: dict[str, str]
    global_changes: list[str]
    teacher_changes: list[str]
    root: Path
    left: str = ""


@dataclass(eq=False)
class Bench:
    """One method or protocol on one dataset, for all tests of a conformance class; `bench_for` makes one.

    `folder` is shared by all benches of a session: a teacher is trained there once. Every run has a cache of its
    own beside it, which shares data, teacher and statistics with the others.
    """

    folder: Path
    stage: Literal["distill", "evaluate"]
    experiment: Experiment
    registry: PluginRegistry

    @property
    def subject(self) -> Distiller | Evaluator:
        """The method or protocol that is tested."""
        return self.experiment.method if self.stage == "distill" else self.experiment.evaluator

    @property
    def name(self) -> str:
        """What is tested, for people."""
        return f"{'method' if self.stage == 'distill' else 'evaluator'} '{self.subject.name}'"

    def pipeline(
        self,
        root: Path,
        experiment: Experiment | None = None,
        cache: Cache | None = None,
        emit: Callable[[Event], None] = lambda event: None,
    ) -> Pipeline:
        """The stages of `experiment` (default: the bench's own) on the cache in `root`."""
        place = os.environ.get("DDBENCH_DATA")
        workspace = Workspace(self.registry, cache or Cache(root), Path(place) if place else None)
        workspace.emit = emit
        return Pipeline(workspace, experiment or self.experiment)

    def empty(self, experiment: Experiment | None = None) -> Path:
        """A new cache that holds data, teacher and statistics of `experiment`, and nothing else."""
        shared = self.folder / "shared"
        pipeline = self.pipeline(shared, experiment)
        for stage in SHARED:
            pipeline.build(stage)
        root = Path(tempfile.mkdtemp(dir=self.folder))
        for stage in SHARED:
            (shared / stage).mkdir(exist_ok=True)
            (root / stage).symlink_to(shared / stage)
        return root

    def made(self, pipeline: Pipeline, backwards: bool = False) -> dict[str, str]:
        """What the stage under test makes: a digest of every unit's tensors, or the metrics."""
        if self.stage == "evaluate":
            return {"the metrics": canonical(pipeline.artifact("evaluate").meta["metrics"])}
        units = pipeline.units[::-1] if backwards else pipeline.units
        return {f"unit {unit.index}": digest_of(pipeline.artifact("distill", unit.index).tensors) for unit in units}

    def again(self, backwards: bool = False) -> dict[str, str]:
        """What another complete run makes."""
        return self.made(self.pipeline(self.empty()), backwards)

    @cached_property
    def disturbed(self) -> dict[str, str]:
        """What another complete run makes after other code has seeded the global generators."""
        with watching.other_global_generators():
            return self.again()

    def run(self, experiment: Experiment | None = None) -> Run:
        """A complete run, with an eye on what it changes around it."""
        root = self.empty(experiment)
        pipeline = self.pipeline(root, experiment)
        teacher = pipeline.teacher if pipeline.uses_teacher else None
        taught = watching.teacher_state(teacher) if teacher is not None else {}
        if self.stage == "evaluate":
            _ = pipeline.distilled
        made = self.made(pipeline)
        taught_after = watching.teacher_state(teacher) if teacher is not None else {}
        return Run(made, pipeline.builder.changed, changed_names(taught, taught_after), root)

    @cached_property
    def other(self) -> Run:
        """A run with another seed, and what is left of it in memory."""
        device = self.pipeline(self.folder / "shared").device
        before, unit = watching.alive(device)
        run = self.run(self.experiment.model_copy(update={"seed": self.experiment.seed + 1}))
        after, _ = watching.alive(device)
        return replace(run, left=f"{after - before} {unit}" if after > before else "")

    @cached_property
    def _first(self) -> Run | DDBenchError:
        try:
            return self.run()
        except DDBenchError as error:
            return error

    @property
    def first(self) -> Run:
        """The run that all others are compared with. Raises DDBenchError where there is none, always the same."""
        if isinstance(self._first, DDBenchError):
            raise self._first
        return self._first

    def interrupted(self, stop_at: Moment) -> tuple[dict[str, str], Journal]:
        """What a run makes that is stopped at its first moments of that kind and started again each time."""
        root, journal = self.empty(), Journal(stop_at)

        def emit(event: Event) -> None:
            if (event.stage, event.kind) == (self.stage, "step"):
                journal.reached("report")

        while True:
            pipeline = self.pipeline(root, cache=WatchedCache(root, self.stage, journal), emit=emit)
            try:
                with mock.patch.object(loop, "SAVE_SECONDS", 0.0):  # these runs are over before the usual 20
                    return self.made(pipeline), journal
            except Interruption:
                continue

    @cached_property
    def elsewhere(self) -> dict[str, str] | None:
        """What another process makes, units in reverse order; None where it cannot import the class."""
        root = self.empty()
        try:
            make_elsewhere(make_method if self.stage == "distill" else make_protocol, self.experiment, root)
        except NotImportable:
            return None
        return self.made(self.pipeline(root))


def bench_for(subject: Distiller | Evaluator, folder: Path, dataset: str, budget: str, ipc: int) -> Bench:
    """A bench for a method, with the kit's student; or for a protocol, with random real images or all of them."""
    registry = registry_of(type(subject))
    on_real_data = isinstance(subject, Evaluator) and subject.on_real_data
    request = Request(
        methods=("full" if on_real_data else "random",),
        datasets=(dataset,),
        ipcs=() if on_real_data else (ipc,),
        recipes=(budget,),
        precision="fp32",
        assignments=(*TEACHER, *(BRIEF if on_real_data else ()), *(data.SIZES if dataset == data.FEW else ())),
    )
    (cell,) = experiments(request, registry)
    if isinstance(subject, Evaluator):
        own: dict[str, Any] = {"evaluator_name": subject.name, "evaluator": subject}
        return Bench(folder, "evaluate", cell.model_copy(update=own), registry)
    own = {"method_name": subject.name, "method": subject}
    student = {"evaluator_name": STUDENT.name, "evaluator": STUDENT}
    return Bench(folder, "distill", cell.model_copy(update={**own, **student}), registry)


def registry_of(cls: type[Distiller] | type[Evaluator]) -> PluginRegistry:
    """What is installed, the kit's dataset, and `cls`, if it is not installed yet.

    Raises DDBenchError where its name is taken.
    """
    registry = PluginRegistry()
    registry.register(data, "the conformance kit")
    if cls not in (*registry.distillers(), *registry.evaluators()):
        hook = "ddbench_distillers" if issubclass(cls, Distiller) else "ddbench_evaluators"
        registry.register(SimpleNamespace(**{hook: hookimpl(lambda: [cls])}), "the conformance test")
    return registry


def make_method(experiment: Experiment, root: Path) -> None:
    """Makes all units of a method, the last one first."""
    bench = Bench(root, "distill", experiment, registry_of(type(experiment.method)))
    bench.made(bench.pipeline(root), backwards=True)


def make_protocol(experiment: Experiment, root: Path) -> None:
    """Trains and measures a protocol's student."""
    bench = Bench(root, "evaluate", experiment, registry_of(type(experiment.evaluator)))
    bench.made(bench.pipeline(root))
