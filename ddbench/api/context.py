"""What a method and a protocol are given: the protocols of `task` and of what it holds. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ddbench.api.dataset import DatasetInfo
    from ddbench.api.settings import RecoverSettings, TrainingSettings
    from ddbench.api.units import Unit

Progress = Callable[..., None]
"""`report(step, total, **metrics)`: reports the progress of a stage; metrics are floats."""

Cached = Callable[[str, Mapping[str, Any], Callable[[], "dict[str, Tensor]"]], "dict[str, Tensor]"]
"""`cached(name, depends_on, fn)`: the tensors that `fn` returns, from the cache where they are there."""


@dataclass(frozen=True)
class Output:
    """The result of one forward pass of a teacher.

    Attributes:
        logits: Float [B, classes].
        features: Float [B, d], of the layer that was asked for.
        bn_inputs: The input of each BatchNorm layer, [B, C, ...], in the order of `Teacher.bn_names`. Where only
            their moments were asked for, each is a `ddbench.nn.Moments`.
    """

    logits: Tensor
    features: Tensor
    bn_inputs: list[Tensor]


Objective = Callable[[Output], "dict[str, Tensor]"]
"""The weighted loss terms of a recover step, by name; their sum is minimised. It is called inside autocast.

The BatchNorm inputs are `ddbench.nn.Moments`, which the terms in `ddbench.losses` accept. An objective that needs
more of the inputs is called again with the inputs themselves, from then on.
"""


@dataclass(frozen=True)
class ClassStatistics:
    """Statistics of the real images of one class, float32 on the CPU.

    Attributes:
        features: [n, d], one row an image.
        bn_means: The mean at the input of each BatchNorm layer, [C].
        bn_vars: The variance at the input of each BatchNorm layer, [C].
    """

    features: Tensor
    bn_means: list[Tensor]
    bn_vars: list[Tensor]


class Images(Protocol):
    """The decoded images of one split, sorted by class, at their stored size."""

    labels: Tensor
    sizes: Tensor

    def __len__(self) -> int: ...

    def of_class(self, label: int) -> Tensor:
        """int64 indices of the images of class `label`, ascending."""

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 [B, 3, H, W], zero-padded to the largest, and their sizes int64 [B, 2] (height, width)."""

    def centre(self, indices: Tensor, size: int) -> Tensor:
        """The evaluation view: the central `size` x `size` pixels, uint8 [B, 3, size, size]."""


class RealData(Protocol):
    """The real dataset: names, counts, both splits, and the normalisation of pixels.

    `mean` and `std` are float32 [3], of pixel values in [0, 1].
    """

    mean: Tensor
    std: Tensor

    @property
    def info(self) -> DatasetInfo:
        """Names, counts and sizes."""

    @property
    def train(self) -> Images:
        """The training images, without those that are held out."""

    @property
    def val(self) -> Images:
        """The images that accuracy is measured on: the validation images, or the held-out training images."""

    def normalise(self, pixels: Tensor) -> Tensor:
        """Normalised float32 [B, 3, H, W] from uint8 or float pixels in [0, 1]."""

    def evaluation_view(self, split: Literal["train", "val"], indices: Tensor) -> Tensor:
        """Normalised float32 [B, 3, S, S]: the central pixels of the images `indices` (int64 [B])."""


class Teacher(Protocol):
    """A trained classifier in evaluation mode; its parameters are frozen."""

    network: nn.Module
    feature_dim: int
    bn_names: list[str]
    layer_names: list[str]

    def __call__(self, images: Tensor, bn: bool = True, layer: int | None = None, moments: bool = False) -> Output:
        """Logits, features and BatchNorm inputs of normalised images [B, 3, S, S]."""

    def running_statistics(self) -> tuple[list[Tensor], list[Tensor]]:
        """The running means and variances of the BatchNorm layers, [C] each, in the order of `bn_names`."""


class CheckpointIO(Protocol):
    """The checkpoint of one unit: it outlives a killed process."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and the metadata that were saved last, or None."""

    def save(self, tensors: dict[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Replaces the checkpoint."""


class DistilledImages(Protocol):
    """A distilled set: images, labels and weights, in one order."""

    @property
    def images(self) -> Tensor:
        """uint8 [m, 3, S, S]."""

    @property
    def labels(self) -> Tensor:
        """int64 [m]."""

    @property
    def weights(self) -> Tensor:
        """float32 [m]; the weights of each class sum to 1."""

    @property
    def image_bytes(self) -> int:
        """Bytes of the images as uint8."""

    def part(self, rows: Tensor) -> DistilledImages:
        """The set of the images `rows` (int64 [n]) alone."""

    def __len__(self) -> int: ...


class DistillTask(Protocol):
    """What a distiller may use to make the images of one unit."""

    @property
    def dataset(self) -> RealData:
        """The real data."""

    @property
    def info(self) -> DatasetInfo:
        """Names, counts and sizes of the real data."""

    @property
    def ipc(self) -> int:
        """Images per class; 0 for a method without an IPC."""

    @property
    def seed(self) -> int:
        """The seed of the distilled set."""

    @property
    def device(self) -> torch.device:
        """The device that the method computes on."""

    @property
    def precision(self) -> str:
        """`fp32` or `bf16`, for `ddbench.nn.autocast`."""

    @property
    def teacher(self) -> Teacher:
        """The teacher on `device`; it is trained at the first use."""

    @property
    def checkpoint(self) -> CheckpointIO:
        """The checkpoint of this unit."""

    @property
    def checkpoint_every(self) -> int:
        """Steps between two checkpoints."""

    @property
    def timing(self) -> dict[str, float]:
        """A method with a loop of its own stores `steps` and `seconds` here."""

    @property
    def compile(self) -> bool:
        """Whether the recover loop compiles its network."""

    def report(self, step: int, total: int, **metrics: float) -> None:
        """Reports progress."""

    def note(self, text: str) -> None:
        """Prints one line for the user."""

    def tick(self) -> None:
        """Marks the end of an iteration; the efficiency table measures the time between two marks."""

    def cached(
        self, name: str, depends_on: Mapping[str, Any], fn: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The tensors that `fn` returns, kept in the cache.

        The key holds the teacher, the statistics, IPC, seed, device, method version, and `depends_on`.
        """

    def statistics(self, label: int, layer: int | None = None) -> ClassStatistics:
        """Statistics of the real images of class `label`; features of `layer`, else of the classifier's input."""

    def tensors(self, stage: str, part: int = 0) -> dict[str, Tensor]:
        """The tensors of a part of one of the stages that `Distiller.stages` names."""

    def generator(self, *names: str | int) -> torch.Generator:
        """A CPU generator seeded by the run's seed and `names`: give a name to every kind of draw."""

    def sample(self, label: int, count: int, *names: str | int) -> Tensor:
        """int64 [count]: different random training images of a class, all of them where it has fewer."""

    def noise(self, unit: Unit) -> Tensor:
        """Standard normal images [n, 3, S, S] in normalised space, each seeded by (run seed, class, index)."""

    def recover(
        self, unit: Unit, objective: Objective, initial: Tensor, settings: RecoverSettings, layer: int | None = None
    ) -> Tensor:
        """Runs the pixel-optimisation loop: normalised [n, 3, S, S] in, pixels in [0, 1] out."""


class EvaluateTask(Protocol):
    """What an evaluator may use to train and measure one student with one seed."""

    @property
    def dataset(self) -> RealData:
        """The real data."""

    @property
    def distilled(self) -> DistilledImages:
        """The distilled set."""

    @property
    def images(self) -> Tensor:
        """uint8 [m, 3, S, S]: the distilled images."""

    @property
    def labels(self) -> Tensor:
        """int64 [m]."""

    @property
    def weights(self) -> Tensor:
        """float32 [m]; the weights of each class sum to 1."""

    @property
    def ipc(self) -> int | None:
        """Images per class; None: the whole training set."""

    @property
    def seed(self) -> int:
        """The student's seed."""

    @property
    def device(self) -> torch.device:
        """The device that the student is trained on."""

    @property
    def precision(self) -> str:
        """`fp32` or `bf16`, for `ddbench.nn.autocast`."""

    @property
    def teacher(self) -> Teacher:
        """The teacher on `device`."""

    @property
    def teacher_training(self) -> TrainingSettings:
        """The hyper-parameters that the teacher is trained with."""

    @property
    def checkpoint(self) -> CheckpointIO:
        """The checkpoint of this student."""

    def report(self, step: int, total: int, **metrics: float) -> None:
        """Reports progress."""

    def cached(
        self, name: str, depends_on: Mapping[str, Any], fn: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Stored labels: the key holds the distilled set, the teacher, the protocol, and `depends_on`."""

    def with_distilled(self, distilled: DistilledImages) -> EvaluateTask:
        """The same task with another distilled set, for a student that trains on a part of the images."""

    def student(self) -> nn.Module:
        """A new student, initialised with this task's seed, on the CPU."""
