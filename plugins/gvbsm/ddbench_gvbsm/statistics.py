"""Statistics of the real images at the convolutions of each teacher, as a stage. Module level: no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from ddbench.api import Stage, StageRun

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.api import CheckpointIO

BATCH_SIZE = 64
"""Images per batch, within which `batch-mean` computes variances (released code: 64)."""
TENSORS = ("channel-mean", "channel-variance", "patch-mean", "patch-variance")
"""The tensors of a layer: moments of each channel [C] and of each patch [P]."""


class ConvolutionSettings(BaseModel, frozen=True):
    """The teachers and the settings of the statistics. A method that uses the stage inherits from this class."""

    teachers: tuple[str, ...] = Field(
        default=("resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5"),
        min_length=1,
        description="networks of the teachers, which take turns (released code, ImageNet-1K)",
    )
    patch: int = Field(
        default=4,
        ge=1,
        description="side of a patch of a feature map, for its mean and variance (paper and released code: 4; "
        "ImageNet-1K 16)",
    )
    variance: Literal["exact", "batch-mean"] = Field(
        default="exact",
        description="exact: over all training images; batch-mean: mean of the variances within batches of 64, for the "
        "statistics of a class within each image (released code)",
    )


class ConvolutionStatistics(Stage):
    """Computes mean and variance of the channels and patches that convolutions get. Each part is one teacher.

    The key of a part contains its own teacher only, and neither IPC nor seed. The tensors are `TENSORS` for each
    convolution: `LAYER/channel-mean` and so on.
    """

    name = "convolutions"
    version = "1"
    numerics = ("MODELS", "VIEWS", "STATISTICS")

    def count(self, run: StageRun) -> int:
        """Returns the number of teachers."""
        return len(settings_of(run).teachers)

    def needs(self, run: StageRun, part: int) -> Iterable[tuple[str, int]]:
        """Returns the data and the teacher of the part."""
        return [("data", 0), ("teacher", run.teacher_part(settings_of(run).teachers[part]))]

    def key(self, run: StageRun, part: int) -> Mapping[str, Any]:
        """Returns the real data, the teacher and the settings of the statistics."""
        settings = settings_of(run)
        return {
            **run.common_key(self),
            "version": self.version,
            "teacher": run.teacher_key(settings.teachers[part]),
            "patch": settings.patch,
            "variance": settings.variance,
        }

    def image_passes(self, run: StageRun, part: int) -> float:
        """Counts a third of a pass for every training image (forward pass only)."""
        return sum(run.info.train_counts) / 3

    def label(self, run: StageRun, part: int) -> str:
        """Returns the network of the teacher."""
        return settings_of(run).teachers[part]

    def build(self, run: StageRun, part: int, checkpoint: CheckpointIO) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Passes all training images through one teacher."""
        import torch

        from ddbench.nn import collect_inputs, convolutions

        settings, real = settings_of(run), run.dataset.train
        (teacher,) = run.teachers(settings.teachers[part])
        names, indices = convolutions(teacher.network), torch.arange(len(real.labels))
        batches = (
            run.dataset.evaluation_view("train", rows).to(run.device) for rows in torch.split(indices, BATCH_SIZE)
        )
        collected = collect_inputs(teacher, batches, names, settings.patch, settings.variance)
        tensors: dict[str, Tensor] = {}
        for name, (channels, patches) in collected.items():
            tensors |= {f"{name}/{kind}": value for kind, value in zip(TENSORS, (*channels, *patches), strict=True)}
        return tensors, {}


class CategoryStatistics(ConvolutionStatistics):
    """Computes the same statistics for each class, and those of the channels that BatchNorm layers get.

    The tensors are those of `ConvolutionStatistics` with a row for each class; BatchNorm layers have no patches.
    """

    name = "categories"
    version = "1"

    def build(self, run: StageRun, part: int, checkpoint: CheckpointIO) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Passes all training images through one teacher, class by class."""
        import torch

        from ddbench.nn import collect_inputs, convolutions

        settings, real = settings_of(run), run.dataset.train
        (teacher,) = run.teachers(settings.teachers[part])
        names = [*convolutions(teacher.network), *teacher.bn_names]
        variance: Literal["exact", "image-mean"] = "exact" if settings.variance == "exact" else "image-mean"
        rows: dict[str, list[Tensor]] = {}
        for label in range(run.info.num_classes):
            batches = (
                run.dataset.evaluation_view("train", indices).to(run.device)
                for indices in torch.split(real.of_class(label), BATCH_SIZE)
            )
            collected = collect_inputs(teacher, batches, names, settings.patch, variance)
            for name, (channels, patches) in collected.items():
                values = (*channels, *(() if name in teacher.bn_names else patches))
                for kind, value in zip(TENSORS, values, strict=False):
                    rows.setdefault(f"{name}/{kind}", []).append(value)
        return {name: torch.stack(values) for name, values in rows.items()}, {}


def settings_of(run: StageRun) -> ConvolutionSettings:
    """Returns the settings of the statistics of the run's method."""
    assert isinstance(run.method, ConvolutionSettings)
    return run.method
