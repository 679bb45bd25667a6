"""The arguments of methods, protocols and measures.

Implements `DistillTask` and `EvaluateTask` of `ddbench.api.context`, and `MeasureTask` of `ddbench.api.measure`.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ddbench.api.context import Cached, CheckpointIO, ImageLoss, Progress
from ddbench.api.dataset import DatasetInfo
from ddbench.api.images import DistilledImages
from ddbench.api.settings import RecoverSettings, TrainingSettings
from ddbench.api.teacher import ClassStatistics, Objective, Phase, Teacher
from ddbench.api.units import Unit
from ddbench.config.schema import Stem
from ddbench.core import seeds
from ddbench.data.dataset import Dataset
from ddbench.distillation.distilled_set import decode
from ddbench.distillation.objective import backpropagate
from ddbench.distillation.recover import draw_view, optimise, recover, slot_noise
from ddbench.nn.build import build_network
from ddbench.nn.taps import TappedNetwork


@dataclass(frozen=True)
class DistillContext:
    """Everything that a distiller may use to make the images of one unit.

    Args:
        dataset: The real data.
        ipc: Images per class; 0 for a method without an IPC.
        seed: The seed of the distilled set.
        device: The device that the method computes on.
        precision: `fp32` or `bf16`.
        checkpoint: The checkpoint of this unit.
        checkpoint_every: Steps between two checkpoints.
        report: Reports progress as `report(step, total, **metrics)`.
        cached: Caches a method's own intermediate result as `cached(name, depends_on, fn)`. The key holds the teacher,
            the statistics, IPC, seed, device, the method's version, and `depends_on`.
        statistics: Returns the statistics of a class's real images as `statistics(label, layer=None)`. The features are
            those of the layer with this number (`ddbench.nn.layers.weighted_layers`); None: the classifier's input.
        timing: A method may store `steps` and `seconds` here; `recover` does.
        tick: Marks the end of an iteration, to measure its time.
        compile: Whether the recover loop compiles its network.
        note: Prints one line for the user.
        tensors: Returns the tensors of a stage in `Distiller.stages`, as `tensors(stage, part=0, names=None)`.
        teachers: Returns the teachers of the networks in `Distiller.teacher_pool`, as `teachers(*names)`.
    """

    dataset: Dataset
    ipc: int
    seed: int
    device: torch.device
    precision: str
    checkpoint: CheckpointIO
    checkpoint_every: int
    report: Progress
    cached: Cached
    statistics: Callable[..., ClassStatistics]
    timing: dict[str, float]
    _teacher: Callable[[], TappedNetwork]
    tick: Callable[[], None] = lambda: None
    compile: bool = False
    note: Callable[[str], None] = lambda text: None
    tensors: Callable[..., dict[str, Tensor]] = lambda stage, part=0, names=None: {}
    teachers: Callable[..., Sequence[TappedNetwork]] = lambda *names: []

    @property
    def info(self) -> DatasetInfo:
        """Names, counts and sizes of the dataset."""
        return self.dataset.info

    @property
    def teacher(self) -> TappedNetwork:
        """The teacher on `device`, in evaluation mode, with frozen parameters. It is trained at the first use."""
        return self._teacher()

    def generator(self, *names: str | int) -> torch.Generator:
        """Returns a CPU generator that is seeded by the seed of the distilled set and the names.

        Args:
            names: Identify the draw; use a different name for every kind of draw.
        """
        return seeds.generator("distill", self.seed, *names)

    def sample(self, label: int, count: int, *names: str | int) -> Tensor:
        """Draws different random training images of a class.

        Args:
            label: The class.
            count: The number of images. A larger count begins with the images of a smaller one.
            names: Identify the draw, together with the seed of the distilled set and `label`.

        Returns:
            The indices, int64 [count]; the indices of all images of the class if it has fewer.
        """
        indices = self.dataset.train.of_class(label)
        return indices[torch.randperm(len(indices), generator=self.generator(*names, label))[:count]]

    def noise(self, unit: Unit) -> Tensor:
        """Draws standard normal noise for a unit, in normalised space; see `slot_noise`.

        Args:
            unit: The unit.

        Returns:
            Float32 [n, 3, S, S], one image per slot.
        """
        return slot_noise(self.seed, unit, self.info.image_size)

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
        """Runs the recover loop on a unit; see `ddbench.distillation.recover.recover`.

        Args:
            unit: The unit.
            objective: Computes the weighted loss terms from the output of a network.
            initial: The initial images, normalised, [n, 3, S, S]. The images of a set in `settings.initial` replace
                them.
            settings: Hyper-parameters.
            layer: The layer whose features are passed to the objective, a number as in `statistics`.
            networks: Networks on `device` that take turns, one in each step (`Output.turn`). Empty: the teacher.
            phases: Parts of the loop that optimise some of the images, or change them at their start. Empty: none.

        Returns:
            The images, float32 [n, 3, S, S], pixel values in [0, 1].
        """
        initial = self._start(unit, initial, settings)
        return recover(self, unit, objective, initial, settings, layer, networks, phases)

    def optimise(
        self,
        unit: Unit,
        loss: ImageLoss,
        initial: Tensor,
        settings: RecoverSettings,
        state: MutableMapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Runs the recover loop with a loss that makes its own passes; see `ddbench.distillation.recover.optimise`.

        Args:
            unit: The unit.
            loss: Computes the weighted loss terms of the images at a step.
            initial: As in `recover`.
            settings: Hyper-parameters.
            state: Tensors that the loss keeps from step to step.

        Returns:
            The images, float32 [n, 3, S, S], pixel values in [0, 1].
        """

        def backward(images: Tensor, step: int) -> dict[str, Tensor]:
            return backpropagate(loss(images, step))

        return optimise(self, unit, backward, self._start(unit, initial, settings), settings, state)

    def view(self, unit: Unit, images: Tensor, settings: RecoverSettings, step: int) -> Tensor:
        """Draws the view of a step of the recover loop: a random-resized-crop, a flip and a roll.

        Args:
            unit: The unit.
            images: Normalised images [n, 3, S, S].
            settings: The settings of the views.
            step: The step, from 0.

        Returns:
            The view [n, 3, S, S]. Differentiable in the images.
        """
        return draw_view(self, unit, images, settings, step)

    def _start(self, unit: Unit, initial: Tensor, settings: RecoverSettings) -> Tensor:
        return initial if settings.given_set() is None else self._given_images(unit)

    def _given_images(self, unit: Unit) -> Tensor:
        """Returns the images of the given set: for the slot (class, j) the image j of the class. Normalised."""
        given = decode(self.tensors("given"))
        rows = [(given["labels"] == slot.label).nonzero().flatten()[slot.index] for slot in unit.slots]
        return self.dataset.normalise(given["images"][torch.stack(rows)])


@dataclass(frozen=True)
class EvaluateContext:
    """Everything that an evaluator may use to train and measure one student with one seed.

    Args:
        dataset: The real data.
        distilled: The distilled set.
        teacher_training: The hyper-parameters that the teacher is trained with.
        student_arch: The student's architecture.
        student_stem: The student's first layers.
        seed: The student's seed.
        ipc: Images per class; None: the whole training set.
        device: The device that the student is trained on.
        precision: `fp32` or `bf16`.
        checkpoint: The checkpoint of this student.
        report: Reports progress as `report(step, total, **metrics)`.
        cached: Caches stored labels as `cached(name, depends_on, fn)`. The key holds the distilled set, the teacher,
            the protocol, and `depends_on`.
        teachers: Returns the teachers of the networks in `Evaluator.teacher_pool`, as `teachers(*names)`.
        students: Receives the student.
    """

    dataset: Dataset
    distilled: DistilledImages
    teacher_training: TrainingSettings
    student_arch: str
    student_stem: Stem
    seed: int
    ipc: int | None
    device: torch.device
    precision: str
    checkpoint: CheckpointIO
    report: Progress
    cached: Cached
    _teacher: Callable[[], TappedNetwork]
    teachers: Callable[..., Sequence[TappedNetwork]] = lambda *names: []
    students: list[nn.Module] = field(default_factory=list)

    @property
    def images(self) -> Tensor:
        """The distilled images, uint8 [m, 3, S, S]."""
        return self.distilled.images

    @property
    def labels(self) -> Tensor:
        """Labels of the distilled images, int64 [m]."""
        return self.distilled.labels

    @property
    def weights(self) -> Tensor:
        """Weights of the distilled images, float32 [m]; the weights of each class sum to 1."""
        return self.distilled.weights

    @property
    def teacher(self) -> TappedNetwork:
        """The teacher on `device`, in evaluation mode, with frozen parameters."""
        return self._teacher()

    def with_distilled(self, distilled: DistilledImages) -> EvaluateContext:
        """Returns the same task with another distilled set.

        Args:
            distilled: The other set, e.g. a part of this one.
        """
        return replace(self, distilled=distilled)

    def student(self) -> nn.Module:
        """Returns a new student on the CPU, initialised with this task's seed."""
        student = build_network(
            self.student_arch,
            self.dataset.info.num_classes,
            self.dataset.info.image_size,
            self.student_stem,
            seeds.derive("student", self.seed),
        )
        self.students.append(student)
        return student


@dataclass(frozen=True)
class MeasureContext:
    """Everything that a measure may use.

    Args:
        name: The name of the measure.
        dataset: The real data.
        device: The device to compute on.
        precision: `fp32` or `bf16`.
        report: Reports progress as `report(step, total)`.
        statistics: Returns the statistics of a class's real images.
    """

    name: str
    dataset: Dataset
    device: torch.device
    precision: str
    report: Progress
    statistics: Callable[[int], ClassStatistics]
    _student: Callable[[], nn.Module]
    _distilled: Callable[[], DistilledImages]
    _teacher: Callable[[], TappedNetwork]

    @property
    def student(self) -> nn.Module:
        """The trained student on `device`, in evaluation mode, with frozen parameters."""
        return self._student()

    @property
    def distilled(self) -> DistilledImages:
        """The distilled set."""
        return self._distilled()

    @property
    def teacher(self) -> TappedNetwork:
        """The teacher on `device`, in evaluation mode, with frozen parameters."""
        return self._teacher()

    def generator(self, *names: str | int) -> torch.Generator:
        """Returns a CPU generator seeded by the measure's name and `names`: the same for all students and sets."""
        return seeds.generator("measure", self.name, *names)
