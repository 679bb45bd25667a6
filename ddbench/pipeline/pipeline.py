"""Runs one experiment: stage by stage, with each artifact in the cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ddbench.api.dataset import DatasetInfo
from ddbench.api.stage import Stage
from ddbench.api.teacher import ClassStatistics
from ddbench.config.experiment import Experiment
from ddbench.core.canonical import key_of
from ddbench.core.errors import DDBenchError, PluginError, exception_line
from ddbench.core.events import Context
from ddbench.distillation.distilled_set import DistilledSet, assemble
from ddbench.distillation.given import Given
from ddbench.distillation.units import check_units
from ddbench.nn import compile
from ddbench.nn import device as devices
from ddbench.nn.taps import TappedNetwork
from ddbench.pipeline.build import Builder
from ddbench.pipeline.given_sets import check_given_set
from ddbench.pipeline.graph import StageGraph
from ddbench.pipeline.keys import Keys
from ddbench.pipeline.shared_state import SharedState
from ddbench.pipeline.teacher_pool import TeacherPool
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.collection import Kind
from ddbench.results.records import run_name
from ddbench.storage.artifacts import Artifact, Built
from ddbench.storage.checkpoint import Checkpoint


class Pipeline:
    """The stages of one experiment. Requesting an artifact builds its missing inputs first.

    Implements `ddbench.api.stage.StageRun`.

    Args:
        workspace: The registry, the cache, the datasets and the executor that the cells of a grid share.
        experiment: The configuration of the cell.

    Raises:
        DDBenchError: The method or the protocol does not support this experiment. Nothing was trained.
    """

    def __init__(self, workspace: Workspace, experiment: Experiment) -> None:
        self.workspace = workspace
        self.graph: StageGraph = workspace.graph
        self.protocol = experiment.evaluator
        self.dataset = workspace.dataset(experiment.dataset, experiment.data)
        self.measures = tuple(experiment.measures[name] for name in sorted(experiment.measures))
        self.method = workspace.with_digest(experiment.method, self.dataset)
        runtime = workspace.executor.resolve(experiment.runtime)
        own = {"dataset": self.dataset.name, "runtime": runtime, "method": self.method}
        self.experiment = experiment.model_copy(update=own)
        pixels = self.info.num_classes * (experiment.ipc or 0) * experiment.data.image_size**2
        compiled = compile.resolve(runtime, self.method.recover_steps(), pixels)
        self.experiment = self.experiment.model_copy(update={"runtime": compiled})
        self.device = torch.device(compiled.device)
        self.precision = compiled.precision
        self.threads = compiled.threads or devices.default_threads(self.device)
        self._refuse_impossible()
        self.units = self._checked_units()
        self.builder = Builder(
            workspace, self.experiment, self.dataset, self.device, self.threads, context=lambda: self.context
        )
        self.pool = TeacherPool(
            workspace, self.experiment, self.dataset, self.device, lambda part: self.artifact("teacher", part)
        )
        self.keys = Keys(self.experiment, self.dataset, self.method.version, self.protocol.version, self._stage_keys)
        self._known_keys: dict[tuple[str, int], Mapping[str, Any]] = {}
        if self.parts_of("given"):  # read it now: workers and later runs find it in the cache
            check_given_set(self.method, self.artifact("given"), self.info, self.experiment.ipc or 0)

    def run(self) -> None:
        """Builds every stage, in the order of the paper's method."""
        if self.missing():
            self.build("data")  # decode both splits
        self.build("teacher")  # squeeze: train the classifier on the real data
        self.build("statistics")  # features and BatchNorm statistics of every class
        for stage in self.method.stages():
            self.build(stage)
        self.build("distill")  # recover: the images of every unit
        self.build("evaluate")  # train a student on the images and measure it
        self.build("measure")  # transport cost of the distilled set
        self.build("measures")  # the numbers of --measure

    # -- stages ---------------------------------------------------------------------------------------------

    def build(self, stage: str) -> None:
        """Builds every part of a stage that this experiment needs."""
        for part in self.parts_of(stage):
            self.graph[stage].ensure(self, part)

    def parts_of(self, stage: str) -> Sequence[int]:
        """Returns the parts of a stage that this experiment needs."""
        return self.graph[stage].parts(self)

    def key(self, stage: str, part: int = 0) -> Mapping[str, Any]:
        """Returns all dependencies of a part of a stage. They are computed once, so later changes have no effect."""
        if (stage, part) not in self._known_keys:
            self._known_keys[stage, part] = self.graph[stage].key(self, part)
        return self._known_keys[stage, part]

    def artifact(self, stage: str, part: int = 0) -> Artifact:
        """Returns the artifact of a part of a stage. Builds it if it is not in the cache."""
        contract = self.graph[stage]

        def build_inputs() -> None:
            for name, number in contract.needs(self, part):
                self.graph[name].ensure(self, number)

        return self.builder.artifact(
            stage,
            self.key(stage, part),
            lambda checkpoint: self._build(contract, part, checkpoint),
            contract.label(self, part),
            build_inputs,
            part,
        )

    def _build(self, stage: Stage[Any], part: int, checkpoint: Checkpoint) -> Built:
        """Builds a part of a stage. A stage of a method is a plugin's code, as the method is."""
        if stage.name not in self.method.stages():
            return stage.build(self, part, checkpoint)
        teachers = {number for name, number in stage.needs(self, part) if name == "teacher"}
        teachers |= {0} if self.uses_teacher else set()  # `run.teacher`, which a stage can use without declaring it
        shared = self.shared_state("stage", stage.name, sorted(teachers))
        with self.builder.plugin("stage", stage.name, stage.name, shared):
            return stage.build(self, part, checkpoint)

    def missing(self) -> list[tuple[str, int]]:
        """Returns the (stage, part) pairs that this experiment needs and the cache lacks, in order.

        The decoded data count only if another stage is missing, because otherwise nothing reads them.
        """
        pairs = [(stage.name, part) for stage in self.graph for part in stage.parts(self)]
        missing = [(name, part) for name, part in pairs if name != "data" and not self.graph[name].is_built(self, part)]
        data = [(name, part) for name, part in pairs if name == "data" and not self.graph[name].is_built(self, part)]
        return [*data, *missing] if missing else []

    def plan(self) -> list[tuple[str, str]]:
        """Returns (stage, "cached", "to do" or "3 of 10 cached") in order, for `--dry-run`. It computes nothing."""
        missing = self.missing()
        rows = []
        for stage in self.graph:
            count, todo = len(stage.parts(self)), sum(name == stage.name for name, _ in missing)
            state = "cached" if not todo else "to do" if todo == count else f"{count - todo} of {count} cached"
            rows += [(stage.name, state)] if count else []
        return rows

    # -- what stages use ------------------------------------------------------------------------------------

    @property
    def info(self) -> DatasetInfo:
        """Names, counts and sizes of the real data."""
        return self.dataset.info

    @property
    def uses_teacher(self) -> bool:
        """Whether the method or the protocol uses a teacher."""
        return self.method.needs_teacher or self.protocol.needs_teacher

    @property
    def student_images(self) -> int:
        """The number of images that a student is trained on; 0 without an IPC."""
        factor = self.method.decode_factor()
        if isinstance(self.method, Given):
            factor = int(self.tensors("given").get("decode_factor", factor))
        return self.info.num_classes * (self.experiment.ipc or 0) * factor**2

    @property
    def measures_need_teacher(self) -> bool:
        """Whether a measure uses a teacher."""
        return any("teacher" in measure.needs for measure in self.measures)

    @property
    def needs_teacher(self) -> bool:
        """Whether the method, the protocol or a measure uses a teacher."""
        return self.uses_teacher or self.measures_need_teacher

    @property
    def measures_transport(self) -> bool:
        """Whether the transport cost of the distilled set is measured: if a teacher is used and an IPC is given."""
        return self.uses_teacher and self.experiment.ipc is not None

    @property
    def teacher(self) -> TappedNetwork:
        """The teacher on the device, as a `TappedNetwork` in evaluation mode with frozen parameters."""
        return self.pool.teacher(0)

    def teacher_part(self, architecture: str) -> int:
        """Returns the part of the stage `teacher` that trains an architecture."""
        return self.pool.part(architecture)

    def teacher_key(self, architecture: str) -> str:
        """Returns the key of the teacher of an architecture."""
        return key_of(self.keys.teacher(architecture))

    def teachers(self, *architectures: str) -> list[TappedNetwork]:
        """Returns the teachers of architectures of the method's pool."""
        return self.pool.teachers(self.method, architectures)

    def statistics(self, label: int, layer: int | None = None) -> ClassStatistics:
        """Returns features (of `layer`, else of the classifier's input) and BatchNorm statistics of one class.

        They are copies, so that a caller can write into them without affecting other callers.
        """
        artifact = self.artifact("statistics", label + self.info.num_classes * (layer or 0))
        numbers = range(int(artifact.meta["layers"]))
        return ClassStatistics(
            features=artifact.tensors["features"].clone(),
            bn_means=[artifact.tensors[f"bn.{number}.mean"].clone() for number in numbers],
            bn_vars=[artifact.tensors[f"bn.{number}.var"].clone() for number in numbers],
        )

    @cached_property
    def distilled(self) -> DistilledSet:
        """The distilled set, assembled from its units."""
        artifacts = [self.artifact("distill", number) for number in range(len(self.units))]
        keys = tuple(artifact.key for artifact in artifacts)
        tensors = [artifact.tensors for artifact in artifacts]
        return assemble(self.dataset, tensors, keys, self.experiment.method_name)

    def tensors(self, stage: str, part: int = 0) -> dict[str, Tensor]:
        """Returns the memory-mapped tensors of one part of a stage. Builds the part if it is not in the cache."""
        return dict(self.artifact(stage, part).tensors)

    def shared_state(
        self, kind: Kind, name: str, teacher_parts: Iterable[int], distilled: DistilledSet | None = None
    ) -> SharedState:
        """Returns the present state of the shared objects that a method or a protocol can access."""
        owner = self.workspace.registry.describe(kind, name)
        teachers = [self.pool.teacher(part) for part in teacher_parts]
        settings = {
            "the settings of the method": self.experiment.method,
            "the settings of the protocol": self.experiment.evaluator,
        }
        return SharedState(owner, self.dataset, teachers, distilled, settings, self.workspace.discard_teachers)

    def report(self, step: int, total: int, **metrics: float) -> None:
        """Reports the progress of the part that is being built."""
        self.builder.report_current(step, total, **metrics)

    def note(self, text: str) -> None:
        """Prints one line about the part that is being built."""
        self.builder.note_current(text)

    def common_key(self, stage: Stage[Any]) -> dict[str, Any]:
        """Returns the part of a key that follows from a stage's `inputs` and `numerics`."""
        artifacts = {
            name: [key_of(self.key(name, part)) for part in self.parts_of(name)]
            for name in stage.inputs
            if name not in ("data", "teacher", "statistics")
        }
        return {**self.keys.inputs(stage.inputs, stage.numerics), "inputs": artifacts}

    def is_cached(self, stage: str, part: int) -> bool:
        """Returns whether the cache holds a part of a stage that this run uses; see `Builder.holds`."""
        return self.builder.holds(stage, self.key(stage, part))

    def _stage_keys(self) -> dict[str, list[str]]:
        """Returns the keys of the artifacts of the stages in `Distiller.stages`."""
        return {
            name: [key_of({"stage": name, **self.key(name, part)}) for part in self.parts_of(name)]
            for name in self.method.stages()
        }

    # -- names and keys -------------------------------------------------------------------------------------

    def cache_key(self, stage: str, part: int = 0) -> str:
        """Returns the cache key of a part of a stage, as it is stored in records."""
        return self.workspace.cache.path(stage, self.key(stage, part)).stem

    @property
    def unit_keys(self) -> tuple[str, ...]:
        """The keys of the units of the distilled set. They are computed without building the units."""
        return tuple(self.cache_key("distill", number) for number in range(len(self.units)))

    @cached_property
    def context(self) -> Context:
        """The cell, as events name it."""
        experiment = self.experiment
        key = self.cache_key("evaluate")
        record = run_name(experiment.method_name, self.info.name, experiment.ipc, key)
        return Context(experiment.name, record, experiment.public())

    @property
    def set_label(self) -> str:
        """The name of the distilled set in progress lines, e.g. `wmdd IPC 10`."""
        ipc = "" if self.experiment.ipc is None else f" IPC {self.experiment.ipc}"
        repeat = f" set {self.experiment.repeat}" if self.experiment.repeat else ""
        return f"{self.experiment.method_name}{ipc}{repeat}"

    @property
    def student_label(self) -> str:
        """The name of the student in progress lines, e.g. `wmdd IPC 10 fkd resnet18 seed 0`."""
        seed = self.experiment.seed + self.experiment.student_seed
        return f"{self.set_label} {self.experiment.evaluator_name} {self.experiment.student} seed {seed}"

    def attribute(self, error: Exception) -> PluginError:
        """Returns an error that names the method and the protocol, because either may have raised the exception."""
        registry = self.workspace.registry
        method = registry.describe("method", self.experiment.method_name)
        protocol = registry.describe("evaluator", self.experiment.evaluator_name)
        return PluginError(f"{method}, {protocol}: {exception_line(error)}")

    # -- checks ---------------------------------------------------------------------------------------------

    def _refuse_impossible(self) -> None:
        registry, experiment = self.workspace.registry, self.experiment
        with registry.attribute_errors("method", experiment.method_name):
            reason = self.method.skip(self.info, experiment.ipc)
            if self.info.image_size % (factor := self.method.decode_factor()):
                problem = f"--image-size {self.info.image_size} is not divisible by {factor}"
                reason = reason or f"{problem}: {experiment.method_name} cuts each image into {factor} x {factor} parts"
        with registry.attribute_errors("evaluator", experiment.evaluator_name):
            reason = reason or self.protocol.skip(experiment.ipc)
        for measure in self.measures:
            with registry.attribute_errors("measure", measure.name):
                reason = reason or measure.skip(self.info, experiment.ipc)
        if reason:
            raise DDBenchError(reason)

    def _checked_units(self) -> list[Any]:
        registry, experiment = self.workspace.registry, self.experiment
        with registry.attribute_errors("method", experiment.method_name):
            units = list(self.method.units(self.info.num_classes, experiment.ipc or 0))
            if experiment.ipc is not None:
                owner = registry.describe("method", experiment.method_name)
                check_units(units, self.info.num_classes, experiment.ipc, owner)
        return units
