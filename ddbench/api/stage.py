"""The contract of a stage: a cached step of a run. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol

from typing_extensions import TypeVar

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
    """What a stage may use of the run that needs it."""

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

    def statistics(self, label: int, layer: int | None = None) -> ClassStatistics:
        """Statistics of the real images of one class. The stage needs "statistics" among its `inputs`."""

    def tensors(self, stage: str, part: int = 0) -> dict[str, Tensor]:
        """The tensors of an artifact of another stage, which is built where it is missing."""

    def report(self, step: int, total: int, **metrics: float) -> None:
        """Reports the progress of the part that is being built."""

    def note(self, text: str) -> None:
        """Prints one line for the user."""

    def parts_of(self, stage: str) -> Sequence[int]:
        """The parts of another stage that this run needs."""

    def common_key(self, stage: Stage[Any]) -> dict[str, Any]:
        """The part of a key that follows from a stage's `inputs` and `numerics`: data, teacher, device, versions."""

    def is_cached(self, stage: str, part: int) -> bool:
        """Whether the cache holds a part of a stage."""


Run = TypeVar("Run", bound=StageRun, default=StageRun)


class Stage(ABC, Generic[Run]):
    """A cached step of a run: it turns the artifacts of other stages into artifacts of its own.

    A stage has parts, e.g. one for each class or one for each training. Each part is one artifact with one key, and
    the unit of checkpoint, resume and distribution. All runs whose key is the same share it: a key that holds neither
    IPC nor seed is built once for all of them. The order of the stages, `--dry-run`, the time estimate, `--force`,
    the work list of Ray and the progress display follow from what the stages declare.

    A plugin gives its stages through the hook `ddbench_stages`, and its methods name them in `Distiller.stages`:

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
        version: Part of every key: raise it when the results change.
        inputs: The names of the stages whose artifacts it reads.
        outputs: The names of the stages that read its artifacts, besides those that name it in their `inputs`.
        distributed: Whether several processes may build one part together (`resources.STAGE.processes`).
        on_demand: Whether its keys are known only while another stage is built. Such a stage is in no plan.
        numerics: Names in `ddbench.core.versions` of the core's numerics that it uses: they are part of the key.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]] = ("data",)
    outputs: ClassVar[tuple[str, ...]] = ("distill",)
    distributed: ClassVar[bool] = False
    on_demand: ClassVar[bool] = False
    numerics: ClassVar[tuple[str, ...]] = ("MODELS", "TRAINING", "VIEWS")

    def count(self, run: Run) -> int:
        """Returns how many parts a method that uses the stage needs."""
        return 1

    def depends_on(self, run: Run) -> Mapping[str, Any]:
        """Returns the settings that the results depend on, as a JSON tree: they are part of the key."""
        return {}

    @abstractmethod
    def build(self, run: Run, part: int, checkpoint: CheckpointIO) -> Built:
        """Builds one part.

        Args:
            run: The run that needs it. Use only what the key holds.
            part: The number of the part.
            checkpoint: Where a long build saves its state; it holds what a killed process saved.

        Returns:
            The tensors of the artifact, and a JSON tree of facts about them.
        """

    def parts(self, run: Run) -> Sequence[int]:
        """Returns the numbers of the parts that the run needs; empty: it does not use the stage."""
        return range(self.count(run)) if self.name in run.method.stages() else ()

    def needs(self, run: Run, part: int) -> Iterable[tuple[str, int]]:
        """Returns the (stage, part) pairs that are built before `part`; by default every part of its inputs."""
        return [(name, number) for name in self.inputs for number in run.parts_of(name)]

    def key(self, run: Run, part: int) -> Mapping[str, Any]:
        """Returns everything that the artifact depends on, as a JSON tree."""
        return {**run.common_key(self), "version": self.version, "part": part, "depends_on": dict(self.depends_on(run))}

    def image_passes(self, run: Run, part: int) -> float:
        """Returns how many images go forward and backward through a network: its cost, for the time estimate."""
        return 0.0

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
        """Builds the artifact where it is missing."""
        run.tensors(self.name, part)
