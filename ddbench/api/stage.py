"""The contract of a stage: a cached step of a run. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol

from typing_extensions import TypeVar

from ddbench.api.cost import Cost, Passes
from ddbench.core.files import name_in_keys

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddbench.api.context import CheckpointIO
    from ddbench.api.dataset import DatasetInfo
    from ddbench.api.distiller import Distiller
    from ddbench.api.images import RealData
    from ddbench.api.teacher import ClassStatistics, Teacher

    Built = tuple[dict[str, Tensor], dict[str, Any]]


class StageRun(Protocol):
    """The part of a run's interface that a stage may use."""

    @property
    def method(self) -> Distiller:
        """The method with its hyper-parameters."""

    @property
    def dataset(self) -> RealData:
        """The real data."""

    @property
    def info(self) -> DatasetInfo:
        """Names, counts and sizes of the real data."""

    @property
    def device(self) -> torch.device:
        """The device that the stage computes on."""

    @property
    def precision(self) -> str:
        """`fp32` or `bf16`, for `ddbench.nn.autocast`."""

    @property
    def teacher(self) -> Teacher:
        """The teacher on `device`. The stage needs "teacher" among its `inputs`."""

    def teachers(self, *architectures: str) -> Sequence[Teacher]:
        """Returns teachers of `Distiller.teacher_pool` on `device`. Add their `teacher_key` to the stage's key."""

    def teacher_part(self, architecture: str) -> int:
        """Returns the part of the stage `teacher` that trains an architecture of the pool, for `Stage.needs`."""

    def teacher_key(self, architecture: str) -> str:
        """Returns the key of a teacher of the pool, for `Stage.key`."""

    def statistics(self, label: int, layer: int | None = None) -> ClassStatistics:
        """Returns statistics of the real images of one class. The stage needs "statistics" among its `inputs`."""

    def tensors(self, stage: str, part: int = 0) -> dict[str, Tensor]:
        """Returns the tensors of an artifact of another stage. Builds the artifact if it is not in the cache."""

    def report(self, step: int, total: int, **metrics: float) -> None:
        """Reports the progress of the part that is being built."""

    def note(self, text: str) -> None:
        """Prints one line for the user."""

    def parts_of(self, stage: str) -> Sequence[int]:
        """Returns the parts of another stage that this run needs."""

    def common_key(self, stage: Stage[Any]) -> dict[str, Any]:
        """Returns the part of a key for a stage's `inputs` and `numerics`: data, teacher, device, versions."""

    def is_cached(self, stage: str, part: int) -> bool:
        """Returns whether the cache holds a part of a stage."""


Run = TypeVar("Run", bound=StageRun, default=StageRun)


class Stage(ABC, Generic[Run]):
    """A cached step of a run. It computes artifacts from the artifacts of other stages.

    A stage has parts, e.g. one for each class or one for each training. Each part is one artifact with one key. Parts
    are checkpointed, resumed and distributed separately. Runs with the same key share the artifact: if the key holds
    neither IPC nor seed, it is built once for all IPCs and seeds. The order of the stages, `--dry-run`, the time
    estimate, `--force`, the work list of Ray and the progress display follow from the declarations of the stages.

    A plugin registers stages with the hook `ddbench_stages`; its methods list them in `Distiller.stages`:

        class Trajectories(Stage):
            name = "trajectories"
            version = "1"

            def count(self, run):
                return run.method.experts

            def depends_on(self, run):
                return {"epochs": run.method.expert_epochs}

            def build(self, run, part, checkpoint):
                return {"weights": train(run.dataset, part, checkpoint)}, {}

        class TrajectoryMatching(Distiller):
            def stages(self):
                return ("trajectories",)

            def distill(self, task, unit):
                weights = task.tensors("trajectories", part=0)["weights"]

    Attributes:
        name: The name of the stage, and of its folder in the cache.
        version: Part of every key. Increase it when the results change.
        inputs: The names of the stages whose artifacts it reads.
        outputs: The names of stages that read its artifacts but do not list it in their `inputs`.
        distributed: Whether several processes may build one part together (`resources.STAGE.processes`).
        progress_unit: What a step of its progress is, e.g. `epoch`.
        on_demand: Whether its keys are known only while another stage is built. Such a stage does not appear in
            `--dry-run` or the time estimate.
        numerics: Names in `ddbench.core.versions` whose versions are part of the key, because the stage uses that code.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]] = ("data",)
    outputs: ClassVar[tuple[str, ...]] = ("distill",)
    distributed: ClassVar[bool] = False
    progress_unit: ClassVar[str] = "step"
    on_demand: ClassVar[bool] = False
    numerics: ClassVar[tuple[str, ...]] = ("MODELS", "TRAINING", "VIEWS")

    def count(self, run: Run) -> int:
        """Returns how many parts a method that uses the stage needs."""
        return 1

    def depends_on(self, run: Run) -> Mapping[str, Any]:
        """Returns the settings that the results depend on, as a JSON tree. They are part of the key.

        A setting can be a `Path`: the key contains the digest of the content of the file or folder.
        """
        return {}

    @abstractmethod
    def build(self, run: Run, part: int, checkpoint: CheckpointIO) -> Built:
        """Builds one part.

        Args:
            run: The run that needs it. Use only properties that the key covers.
            part: The index of the part.
            checkpoint: Saves the state of a long build, and loads the state that a killed process saved.

        Returns:
            The tensors of the artifact, and a JSON tree of facts about them.
        """

    def parts(self, run: Run) -> Sequence[int]:
        """Returns the indices of the parts that the run needs (empty if the run does not use the stage)."""
        return range(self.count(run)) if self.name in run.method.stages() else ()

    def needs(self, run: Run, part: int) -> Iterable[tuple[str, int]]:
        """Returns the (stage, part) pairs that are built before `part`; by default every part of its inputs."""
        return [(name, number) for name in self.inputs for number in run.parts_of(name)]

    def key(self, run: Run, part: int) -> Mapping[str, Any]:
        """Returns everything that the artifact depends on, as a JSON tree."""
        depends_on = {
            name: name_in_keys(value) if isinstance(value, Path) else value
            for name, value in self.depends_on(run).items()
        }
        return {**run.common_key(self), "version": self.version, "part": part, "depends_on": depends_on}

    def image_passes(self, run: Run, part: int) -> float:
        """Returns the number of forward and backward passes of one image through a network, for the time estimate.

        `ddbench list methods` prints the passes of a plugin's stage without opening a dataset: such a stage uses only
        `run.method` and `run.info`, here and in `count`.
        """
        return 0.0

    def cost(self, run: Run, part: int) -> Cost:
        """Returns the cost of a part, for the estimates. By default `image_passes` through the method's networks."""
        return Cost((Passes(self.image_passes(run, part)),))

    def parts_per_task(self, run: Run) -> int:
        """Returns how many parts one worker builds in one task."""
        return 1

    def label(self, run: Run, part: int) -> str:
        """Returns the name of a part in progress lines."""
        count = self.count(run)
        return f"{part + 1}/{count}" if count > 1 else ""

    def is_built(self, run: Run, part: int) -> bool:
        """Returns whether the artifact is in the cache."""
        return run.is_cached(self.name, part)

    def ensure(self, run: Run, part: int) -> None:
        """Builds the artifact if it is not in the cache."""
        run.tensors(self.name, part)
