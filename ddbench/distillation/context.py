"""What a method and a protocol may use: the tasks that the core hands to `distill` and `evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ddbench.api.context import Cached, CheckpointIO, ClassStatistics, DistilledImages, Objective, Progress
from ddbench.api.dataset import DatasetInfo
from ddbench.api.settings import RecoverSettings, TrainingSettings
from ddbench.api.units import Unit
from ddbench.config.schema import Stem
from ddbench.core import seeds
from ddbench.data.dataset import Dataset
from ddbench.distillation.recover import recover, slot_noise
from ddbench.nn.build import build_network
from ddbench.nn.taps import TappedNetwork


@dataclass(frozen=True)
class DistillContext:
    """What a distiller may use for one unit.

    `dataset` is the real data (class-wise), `seed` the run's seed, `checkpoint` this unit's slot.
    `cached(name, depends_on, fn)` keeps a method's own expensive intermediate: its key holds the teacher, the
    statistics, IPC, the seed, the device and the method's version, and `depends_on` what else it depends on.
    `statistics(label, layer=None)` are of a class's real images, the features of the layer of that number (see
    `ddbench.nn.layers.weighted_layers`; None: what feeds the classifier).
    `report(step, total, **metrics)` tells the progress display. `timing` may be given `steps` and `seconds`.
    `tick()` is to be called at the end of every iteration: a stopwatch may listen. `compile`: the recover loop compiles
    its network. `note(text)` tells a person one line.
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
    tensors: Callable[..., dict[str, Tensor]] = lambda stage, part=0: {}

    @property
    def info(self) -> DatasetInfo:
        """Names, counts and sizes of the dataset."""
        return self.dataset.info

    @property
    def teacher(self) -> TappedNetwork:
        """The teacher on `device`, in evaluation mode, its parameters frozen; trained at the first use."""
        return self._teacher()

    def generator(self, *names: str | int) -> torch.Generator:
        """A CPU generator seeded by the run's seed and `names`: give a name to every kind of draw."""
        return seeds.generator("distill", self.seed, *names)

    def sample(self, label: int, count: int, *names: str | int) -> Tensor:
        """int64 [count]: different random training images of a class, all of them where it has fewer.

        Drawn by (run seed, `names`, `label`); a larger count begins with the images of a smaller one.
        """
        mine = self.dataset.train.of_class(label)
        return mine[torch.randperm(len(mine), generator=self.generator(*names, label))[:count]]

    def noise(self, unit: Unit) -> Tensor:
        """Standard normal images [n, 3, S, S] in normalised space, each seeded by (run seed, class, index)."""
        return slot_noise(self.seed, unit, self.info.image_size)

    def recover(
        self, unit: Unit, objective: Objective, initial: Tensor, settings: RecoverSettings, layer: int | None = None
    ) -> Tensor:
        """Runs the shared pixel-optimisation loop on this unit: normalised [n, 3, S, S] in, pixels in [0, 1] out.

        The features that `objective` is given are those of `layer`, a number as in `statistics`.
        """
        return recover(self, unit, objective, initial, settings, layer)


@dataclass(frozen=True)
class EvaluateContext:
    """What an evaluator may use for one student with one seed.

    `seed` is the student's; `cached(name, depends_on, fn)` keeps stored labels, keyed by the distilled set, the
    teacher and the protocol.
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

    @property
    def images(self) -> Tensor:
        """uint8 [m, 3, S, S]: the distilled images."""
        return self.distilled.images

    @property
    def labels(self) -> Tensor:
        """int64 [m]."""
        return self.distilled.labels

    @property
    def weights(self) -> Tensor:
        """float32 [m], each class summing to 1."""
        return self.distilled.weights

    @property
    def teacher(self) -> TappedNetwork:
        """The teacher on `device`, in evaluation mode, its parameters frozen."""
        return self._teacher()

    def with_distilled(self, distilled: DistilledImages) -> EvaluateContext:
        """The same task with another distilled set."""
        return replace(self, distilled=distilled)

    def student(self) -> nn.Module:
        """A freshly initialised student, seeded by this task's seed, on the CPU."""
        return build_network(
            self.student_arch,
            self.dataset.info.num_classes,
            self.dataset.info.image_size,
            self.student_stem,
            seeds.derive("student", self.seed),
        )
