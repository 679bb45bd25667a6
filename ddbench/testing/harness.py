"""Runs a method or a protocol through the stages of `ddbench run`, in temporary caches."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from unittest import mock

from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator
from ddbench.api.hookspecs import hookimpl
from ddbench.api.settings import RecoverSettings
from ddbench.config.experiment import Experiment
from ddbench.core.canonical import canonical_json, key_of
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.evaluators.protocols import HardLabels
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.shared_state import SharedStateError
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.artifacts import digest_of
from ddbench.storage.cache import Cache
from ddbench.testing import data, state
from ddbench.testing.checkpoints import Interrupter, InterruptingCache, Interruption, Moment
from ddbench.testing.subprocess_runner import NotImportableError, run_in_subprocess
from ddbench.training import loop

SHARED_STAGES = ("data", "teacher", "statistics")  # their artifacts depend on no method or protocol
TEACHER = ("teacher.epochs=3", "teacher.batch_size=64", "teacher.learning_rate=0.05", "distill.checkpoint_every=3")
REAL_DATA = ("teacher.batch_size=8",)  # with larger batches, training on a few real images has too few steps
SMALL_STUDENT = "convnet-bn-d1"
STUDENT = HardLabels(epochs=60, learning_rate=5e-3, min_crop=0.5, cutmix_alpha=None)


@dataclass(frozen=True)
class Run:
    """The outcome of one complete run.

    Args:
        digests: Digest of the tensors of each unit, or the metrics as JSON, by name.
        global_changes: Names of the global state that the run changed.
        shared_changes: Names of the shared objects that the run changed: teacher, data, distilled set.
        root: Folder of the cache.
        leaked: Memory that the run did not release, as text; empty if none.
    """

    digests: dict[str, str]
    global_changes: list[str]
    shared_changes: list[str]
    root: Path
    leaked: str = ""


@dataclass(eq=False)
class Harness:
    """Runs one method or protocol on one dataset, for all tests of a conformance class. See `harness_for`.

    Every run has a new cache, which links to the data, teachers and statistics in `folder`.

    Args:
        folder: Folder that all harnesses of a session share, so that a teacher is trained once.
        stage: The stage under test.
        experiment: The experiment that the tests run.
        registry: The plugins, with the dataset of the conformance tests and the class under test.
        observer: Replaces the protocol in the first run; None: nothing does.
    """

    folder: Path
    stage: Literal["distill", "evaluate"]
    experiment: Experiment
    registry: PluginRegistry
    observer: Any = None

    @property
    def subject(self) -> Distiller | Evaluator:
        """The method or protocol under test."""
        return self.experiment.method if self.stage == "distill" else self.experiment.evaluator

    @property
    def name(self) -> str:
        """Kind and name of the subject, for messages."""
        return f"{'method' if self.stage == 'distill' else 'evaluator'} '{self.subject.name}'"

    @property
    def source(self) -> str:
        """Digest of the subject's code; see `ddbench.registry.source`."""
        return self.registry.source_of("method" if self.stage == "distill" else "evaluator", self.subject.name).digest

    @property
    def key(self) -> str:
        """Key of the first artifact of the stage under test. It covers the version and all settings, not the code."""
        return key_of(self.pipeline(self.first.root).key(self.stage))

    @property
    def shared(self) -> Path:
        """Folder of the cache that holds data, teachers and statistics."""
        return self.folder / "shared"

    def pipeline(
        self,
        root: Path,
        experiment: Experiment | None = None,
        cache: Cache | None = None,
        emit: Callable[[Event], None] = lambda event: None,
    ) -> Pipeline:
        """Builds a pipeline.

        Args:
            root: Folder of its cache.
            experiment: The experiment; default: the harness's.
            cache: The cache to use in place of a plain one in `root`.
            emit: Receives the pipeline's events.

        Returns:
            The pipeline. No stage has run.
        """
        data_dir = os.environ.get("DDBENCH_DATA")
        workspace = Workspace(self.registry, cache or Cache(root), Path(data_dir) if data_dir else None)
        workspace.emit = emit
        return Pipeline(workspace, experiment or self.experiment)

    def new_cache(self, experiment: Experiment | None = None) -> Path:
        """Creates a cache that holds data, teacher and statistics of an experiment, and nothing else.

        Args:
            experiment: The experiment; default: the harness's.

        Returns:
            Folder of the cache.
        """
        pipeline = self.pipeline(self.shared, experiment)
        for stage in SHARED_STAGES:
            pipeline.build(stage)
        root = Path(tempfile.mkdtemp(dir=self.folder))
        _link(SHARED_STAGES, self.shared, root)
        return root

    def digests(self, pipeline: Pipeline, reverse: bool = False) -> dict[str, str]:
        """Runs the stage under test.

        Args:
            pipeline: The pipeline to run.
            reverse: Whether to build the units in reverse order.

        Returns:
            Digest of the tensors of each unit, or the metrics as JSON, by name.
        """
        if self.stage == "evaluate":
            return {"the metrics": canonical_json(pipeline.artifact("evaluate").meta["metrics"])}
        units = pipeline.units[::-1] if reverse else pipeline.units
        return {f"unit {unit.index}": digest_of(pipeline.artifact("distill", unit.index).tensors) for unit in units}

    def rerun_digests(self, reverse: bool = False) -> dict[str, str]:
        """Runs the stage under test again in a new cache. Arguments and result as in `digests`."""
        return self.digests(self.pipeline(self.new_cache()), reverse)

    @cached_property
    def reseeded_digests(self) -> dict[str, str]:
        """The digests of a second run, with reseeded global generators.

        The interrupted run is such a run. If its result differs from that of the first run, an uninterrupted run shows
        whether the generators are the cause.
        """
        with contextlib.suppress(DDBenchError):
            digests, _ = self.interrupted
            if digests == self.first.digests:
                return digests
        with state.reseeded_global_generators():
            return self.rerun_digests()

    def run(self, experiment: Experiment | None = None, observer: Any = None) -> Run:
        """Runs all stages in a new cache.

        Args:
            experiment: The experiment; default: the harness's.
            observer: Replaces the protocol; None: nothing does.

        Returns:
            The outcome, without `leaked`.
        """
        root = self.new_cache(experiment)
        pipeline = self.pipeline(root, experiment)
        if observer is not None:
            pipeline.protocol = observer
        digests: dict[str, str] = {}
        shared_changes: list[str] = []
        try:
            digests = self.digests(pipeline)
        except SharedStateError as error:
            shared_changes = error.names
        return Run(digests, pipeline.builder.changed, shared_changes, root)

    @cached_property
    def other_seed(self) -> Run:
        """The outcome of a run with another seed, with the memory that it did not release."""
        device = self.pipeline(self.shared).device
        before, unit = state.memory_in_use(device)
        run = self.run(self.experiment.model_copy(update={"seed": self.experiment.seed + 1}))
        after, _ = state.memory_in_use(device)
        return replace(run, leaked=f"{after - before} {unit}" if after > before else "")

    @cached_property
    def _first(self) -> Run | DDBenchError:
        try:
            return self.run(observer=self.observer)
        except DDBenchError as error:
            return error

    @property
    def first(self) -> Run:
        """The run that other runs are compared with. Raises the same DDBenchError each time if it failed."""
        if isinstance(self._first, DDBenchError):
            raise self._first
        return self._first

    @cached_property
    def interrupted(self) -> tuple[dict[str, str], Interrupter]:
        """The outcome of a run that is interrupted after each of its first saves; see `interrupted_run`."""
        return self.interrupted_run("save")

    def interrupted_run(self, moment: Moment) -> tuple[dict[str, str], Interrupter]:
        """Runs all stages with reseeded global generators, interrupts the stage under test, and resumes it each time.

        Args:
            moment: When to interrupt: after the first "save"s of the checkpoint, or at the first "report"s of a step.
                With "report", the other stages of the method are those of the first run.

        Returns:
            The digests of the final result, and the counts of saves, loads and reports.
        """
        root, interrupter = self.new_cache(), Interrupter(moment)
        if moment == "report":
            _link(self.experiment.method.stages(), self.first.root, root)

        def emit(event: Event) -> None:
            if (event.stage, event.kind) == (self.stage, "step"):
                interrupter.reports += 1
                interrupter.reach("report")

        with state.reseeded_global_generators():
            while True:
                cache = InterruptingCache(root, self.stage, interrupter)
                pipeline = self.pipeline(root, cache=cache, emit=emit)
                try:
                    with mock.patch.object(loop, "SAVE_SECONDS", 0.0):  # these runs are shorter than 20 s, the default
                        return self.digests(pipeline), interrupter
                except Interruption:
                    continue

    @cached_property
    def subprocess_digests(self) -> dict[str, str] | None:
        """The digests of another process, which builds units in reverse order. None if it cannot import the class."""
        root = self.new_cache()
        try:
            run_in_subprocess(build_units if self.stage == "distill" else build_metrics, self.experiment, root)
        except NotImportableError:
            return None
        pipeline = self.pipeline(root)
        if self.stage in {stage for stage, _ in pipeline.missing()}:
            raise DDBenchError(
                "the source of the class is another in the second process, so its result is not compared"
            )
        return self.digests(pipeline)


def harness_for(subject: Distiller | Evaluator, folder: Path, dataset: str, budget: str, ipc: int) -> Harness:
    """Creates the harness of a method or protocol.

    A method is tested with a fixed student protocol. A protocol is tested on random real images, or on the whole
    dataset if it trains on real data.

    Args:
        subject: The method or protocol, with its settings.
        folder: Folder that all harnesses of a session share.
        dataset: Name of the dataset.
        budget: Name of the recipe.
        ipc: Images per class.

    Returns:
        The harness.

    Raises:
        DDBenchError: If the subject cannot be registered or the experiment is not valid.
    """
    registry = registry_with(type(subject))
    on_real_data = isinstance(subject, Evaluator) and subject.on_real_data
    sizes = data.IMAGE_SIZES if dataset == data.FEW_DIGITS else ()
    # Three epochs on a few real images, and images that a deep network has optimised, need a student like the teacher.
    is_small = not (on_real_data or isinstance(subject, RecoverSettings))
    request = Request(
        methods=("full" if on_real_data else "random",),
        datasets=(dataset,),
        ipcs=() if on_real_data else (ipc,),
        recipes=(budget,),
        students=(SMALL_STUDENT,) if is_small else (),
        precision="fp32",
        assignments=(*TEACHER, *(REAL_DATA if on_real_data else ()), *sizes),
    )
    (experiment,) = experiments(request, registry)
    changes: dict[str, Any]
    if isinstance(subject, Evaluator):
        changes = {"evaluator_name": subject.name, "evaluator": subject}
        return Harness(folder, "evaluate", experiment.model_copy(update=changes), registry)
    changes = {"method_name": subject.name, "method": subject}
    changes |= {"evaluator_name": STUDENT.name, "evaluator": STUDENT}
    return Harness(folder, "distill", experiment.model_copy(update=changes), registry)


def registry_with(cls: type[Distiller] | type[Evaluator]) -> PluginRegistry:
    """Creates a registry with the installed plugins, the dataset of the conformance tests and a class.

    Args:
        cls: The class under test. It is registered unless it is already installed.

    Returns:
        The registry.

    Raises:
        DDBenchError: If another plugin uses the name of `cls`.
    """
    registry = PluginRegistry()
    registry.register(data, "the conformance kit")
    if cls not in (*registry.distillers(), *registry.evaluators()):
        hook = "ddbench_distillers" if issubclass(cls, Distiller) else "ddbench_evaluators"
        registry.register(SimpleNamespace(**{hook: hookimpl(lambda: [cls])}), "the conformance test")
    return registry


def _link(stages: Sequence[str], source: Path, root: Path) -> None:
    """Makes the cache in `root` use the artifacts of some stages of the cache in `source`."""
    for stage in stages:
        (source / stage).mkdir(exist_ok=True)
        (root / stage).symlink_to(source / stage)


def build_units(experiment: Experiment, root: Path) -> None:
    """Builds all units of a method in reverse order and stores them in the cache in `root`."""
    harness = Harness(root, "distill", experiment, registry_with(type(experiment.method)))
    harness.digests(harness.pipeline(root), reverse=True)


def build_metrics(experiment: Experiment, root: Path) -> None:
    """Trains and evaluates the student of a protocol and stores the result in the cache in `root`."""
    harness = Harness(root, "evaluate", experiment, registry_with(type(experiment.evaluator)))
    harness.digests(harness.pipeline(root))
