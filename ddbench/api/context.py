"""The interface of `task`, the argument of `Distiller.distill` and `Evaluator.evaluate`. Imports no torch.

DistillTask and EvaluateTask list everything that a method or a protocol may use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ddbench.api.images import DistilledImages, RealData
from ddbench.api.teacher import ClassStatistics, Objective, Phase, Teacher

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ddbench.api.dataset import DatasetInfo
    from ddbench.api.settings import RecoverSettings, TrainingSettings
    from ddbench.api.units import Unit

Progress = Callable[..., None]
"""Type of a progress callback, `report(step, total, **metrics)`. The metrics are floats."""

ImageLoss = Callable[["Tensor", int], "dict[str, Tensor]"]
"""Type of a loss of `DistillTask.optimise`: maps the normalised images [n, 3, S, S] and the step, from 0, to weighted
loss terms by name, whose sum is minimised."""

Cached = Callable[[str, Mapping[str, Any], Callable[[], "dict[str, Tensor]"]], "dict[str, Tensor]"]
"""Type of `DistillTask.cached`: `cached(name, depends_on, fn)` returns the tensors of `fn()`, computed only once."""


class CheckpointIO(Protocol):
    """The checkpoint of one unit or student.

    It remains if the process is killed, and is deleted when the result is stored.

    Example:
        A loop that resumes and that stops cleanly on Ctrl-C:

            from ddbench.api import interruption

            saved = task.checkpoint.load()
            step, images = (saved[1]["step"], saved[0]["images"]) if saved else (0, initial)
            while step < steps:
                images = update(images, step)
                step += 1
                if step % task.checkpoint_every == 0 or interruption.requested():
                    task.checkpoint.save({"images": images}, {"step": step})
                    interruption.raise_if_requested()
    """

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Loads the last checkpoint.

        Returns:
            The tensors (on the CPU) and the metadata, or None if there is no usable checkpoint.
        """

    def save(self, tensors: dict[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Replaces the checkpoint atomically.

        Args:
            tensors: The state, by name. It must include the state of optimisers and generators.
            meta: JSON values, e.g. the step.
        """


class Task(Protocol):
    """The members that `DistillTask` and `EvaluateTask` share."""

    @property
    def dataset(self) -> RealData:
        """The real data."""

    @property
    def device(self) -> torch.device:
        """The device to compute on."""

    @property
    def precision(self) -> str:
        """`fp32` or `bf16`, for `ddbench.nn.autocast`."""

    @property
    def teacher(self) -> Teacher:
        """The teacher on `device`. It is trained at the first use."""

    def teachers(self, *architectures: str) -> Sequence[Teacher]:
        """Returns teachers of several architectures on `device`. They are trained at the first use.

        Args:
            *architectures: Names of networks that `teacher_pool` of the method or the protocol returns, or that of the
                configured teacher.

        Returns:
            The teachers, in the order of the names.

        Example:
            Two teachers in turn::

                teachers = task.teachers("resnet18", "mobilenet_v2")
                logits = teachers[step % 2](view, bn=False).logits
        """

    @property
    def checkpoint(self) -> CheckpointIO:
        """The checkpoint of this unit or student."""

    def report(self, step: int, total: int, **metrics: float) -> None:
        """Reports progress to the display.

        Args:
            step: Number of steps that are done.
            total: Number of steps in all.
            **metrics: Values to show, e.g. `loss`.
        """


class DistillTask(Task, Protocol):
    """The argument of `Distiller.distill`: everything that a method may use."""

    @property
    def info(self) -> DatasetInfo:
        """Names, counts and sizes of the real data."""

    @property
    def ipc(self) -> int:
        """Images per class. 0 for a method without an IPC."""

    @property
    def seed(self) -> int:
        """The seed of the distilled set."""

    @property
    def checkpoint_every(self) -> int:
        """Number of steps between two checkpoints."""

    @property
    def timing(self) -> dict[str, float]:
        """A dict in which a method with its own loop stores `steps` and `seconds`. `recover` fills it itself."""

    @property
    def compile(self) -> bool:
        """Whether the recover loop compiles the network."""

    def note(self, text: str) -> None:
        """Prints a line for the user.

        Args:
            text: The line.
        """

    def tick(self) -> None:
        """Marks the end of an iteration. The efficiency table measures the time between two marks."""

    def cached(
        self, name: str, depends_on: Mapping[str, Any], fn: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Returns an expensive intermediate result from the cache, or computes and stores it.

        The key holds the teacher, the statistics, IPC, seed, device, the version of the method, and `depends_on`.

        Args:
            name: Name of the intermediate, e.g. `barycenter`.
            depends_on: Everything else that the result depends on, as JSON values. This includes each hyper-parameter
                that `fn` uses.
            fn: Computes the tensors.

        Returns:
            The tensors on the CPU, by name.

        Example:
            A barycenter that depends on one hyper-parameter:

                tensors = task.cached("barycenter", {"class": label, "rounds": self.rounds}, solve)
        """

    def statistics(self, label: int, layer: int | None = None) -> ClassStatistics:
        """Returns statistics of the real training images of one class.

        Args:
            label: The class.
            layer: Number of the layer whose features to return. None: the input of the last linear layer.

        Returns:
            Features and BatchNorm statistics.
        """

    def tensors(self, stage: str, part: int = 0, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Returns the tensors of a stage of a plugin.

        Args:
            stage: Name of a stage in `Distiller.stages`.
            part: Number of the part of the stage.
            names: Names of tensors. Only these are read into memory. None: all.

        Returns:
            The tensors on the CPU, by name.
        """

    def generator(self, *names: str | int) -> torch.Generator:
        """Returns a CPU generator that is seeded by the seed of the distilled set and a name.

        Args:
            *names: The name of the draw, in parts. Use a different name for every kind of draw.

        Returns:
            A new generator.
        """

    def sample(self, label: int, count: int, *names: str | int) -> Tensor:
        """Draws random training images of a class without replacement.

        Args:
            label: The class.
            count: Number of images.
            *names: The name of the draw, in parts.

        Returns:
            Indices into `dataset.train`, int64 [count], or fewer if the class has fewer images.
        """

    def noise(self, unit: Unit) -> Tensor:
        """Draws standard normal images in normalised space, each seeded by (seed, class, index).

        Args:
            unit: The unit.

        Returns:
            Float32 [n, 3, S, S], one image per slot.
        """

    def recover(
        self,
        unit: Unit,
        objective: Objective,
        initial: Tensor,
        settings: RecoverSettings,
        layer: int | None = None,
        networks: Sequence[Teacher] = (),
        phases: Sequence[Phase] = (),
    ) -> Tensor:
        """Runs the pixel-optimisation loop of teacher inversion, with checkpoints, crops, flips and progress reports.

        Args:
            unit: The unit.
            objective: Returns the weighted loss terms.
            initial: Initial images in normalised space, [n, 3, S, S]. See `noise`. If `settings.initial` names a
                distilled set, its images replace them.
            settings: Hyper-parameters of the loop.
            layer: Number of the layer whose features are passed to the objective. None: the input of the last linear
                layer.
            networks: Networks on `device` that take turns, one in each step (`Output.turn`). Empty: the teacher.
            phases: Parts of the loop that optimise some of the images, or change them at their start. Empty: none.

        Returns:
            Pixels in [0, 1], float [n, 3, S, S].

        Example:
            An objective of one term, the teacher's cross-entropy:

                labels = torch.tensor([slot.label for slot in unit.slots], device=task.device)

                def objective(output):
                    return {"cross_entropy": torch.nn.functional.cross_entropy(output.logits, labels)}

                return task.recover(unit, objective, task.noise(unit), self)
        """

    def optimise(
        self,
        unit: Unit,
        loss: ImageLoss,
        initial: Tensor,
        settings: RecoverSettings,
        state: MutableMapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Runs the loop of `recover` with a loss that makes its own views and passes, e.g. through several teachers.

        Args:
            unit: The unit.
            loss: Returns the weighted loss terms of all images at one step.
            initial: As in `recover`.
            settings: Hyper-parameters of the loop. `view` uses those of crop, flip and roll.
            state: Tensors that the loss keeps from step to step. Checkpoints contain them.

        Returns:
            Pixels in [0, 1], float [n, 3, S, S].
        """

    def view(self, unit: Unit, images: Tensor, settings: RecoverSettings, step: int) -> Tensor:
        """Draws the view of a step of `recover`: a random-resized-crop, a flip and a roll. Differentiable.

        Args:
            unit: The unit.
            images: Normalised images [n, 3, S, S].
            settings: The settings of the views.
            step: The step, from 0.

        Returns:
            The view [n, 3, S, S].
        """


class EvaluateTask(Task, Protocol):
    """The argument of `Evaluator.evaluate`: everything that a protocol may use for one student with one seed."""

    @property
    def distilled(self) -> DistilledImages:
        """The distilled set."""

    @property
    def images(self) -> Tensor:
        """The distilled images, uint8 [m, 3, S, S]."""

    @property
    def labels(self) -> Tensor:
        """The labels, int64 [m]."""

    @property
    def weights(self) -> Tensor:
        """The weights, float32 [m]. The weights of each class sum to 1."""

    @property
    def ipc(self) -> int | None:
        """Images per class. None: the whole training set."""

    @property
    def seed(self) -> int:
        """The student's seed."""

    @property
    def teacher_training(self) -> TrainingSettings:
        """The hyper-parameters of the teacher's training."""

    def cached(
        self, name: str, depends_on: Mapping[str, Any], fn: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Returns stored labels from the cache, or computes and stores them.

        The key holds the distilled set, the teacher, the protocol, and `depends_on`.

        Args:
            name: Name of the labels.
            depends_on: Everything else that the labels depend on, as JSON values.
            fn: Computes the tensors.

        Returns:
            The tensors on the CPU, by name.
        """

    def with_distilled(self, distilled: DistilledImages) -> EvaluateTask:
        """Returns the same task with another distilled set, for a student that trains on a subset.

        Args:
            distilled: The set, e.g. of `distilled.part(rows)`.

        Returns:
            The new task.
        """

    def student(self) -> nn.Module:
        """Builds a new student on the CPU, initialised with this task's seed.

        Returns:
            The network.
        """
