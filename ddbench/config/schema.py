"""The sections of the configuration, as frozen pydantic models. Imports no torch."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field, model_validator

from ddbench.api.settings import Section, TrainingSettings
from ddbench.core.files import content_digest

Model = TypeVar("Model", bound=BaseModel)
Share = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]


def without_folders(settings: Model) -> Model:
    """Returns a copy of settings whose paths are file names, as records contain them."""
    return replace_paths(settings, lambda path: Path(path.name))


def with_digests(settings: Model) -> Model:
    """Returns a copy of settings whose paths are `NAME@DIGEST`, with the content's first digits, as records need them.

    Files of the same name and different content are different settings.
    """

    def recorded(path: Path) -> Path:
        digest = content_digest(path)
        return Path(f"{path.name}@{digest[:8]}" if digest else path.name)

    return replace_paths(settings, recorded)


def replace_paths(settings: Model, replace: Callable[[Path], Path]) -> Model:
    """Returns a copy of settings with another path for each path, also in lists, dicts and nested settings."""
    return settings.model_copy(update={name: _replace_paths(value, replace) for name, value in settings})


def _replace_paths(value: Any, replace: Callable[[Path], Path]) -> Any:
    if isinstance(value, Path):
        return replace(value)
    if isinstance(value, BaseModel):
        return replace_paths(value, replace)
    if type(value) in (list, tuple):
        return type(value)(_replace_paths(part, replace) for part in value)
    if type(value) is dict:
        return {name: _replace_paths(part, replace) for name, part in value.items()}
    return value


def is_none(value: object) -> bool:
    """Leaves a setting out of keys and records where it is not given, so that it does not change older ones."""
    return value is None


class DataConfig(Section):
    """Storage size, image size and selection of the real images."""

    image_size: int = Field(default=224, ge=4, le=1024, description="side of the images that networks get, in pixels")
    stored_size: int = Field(
        default=256, ge=4, le=1024, description="short side of the decoded cache; crops are taken from it"
    )
    resize: Literal["bilinear", "bicubic"] = Field(
        default="bilinear", description="interpolation for the stored size (antialiased, as in Pillow)"
    )
    skip_corrupt: bool = Field(default=False, description="skip and count unreadable images instead of stopping")
    holdout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="fraction of the training images of every class that are held out from teacher and distillation; "
        "students and teacher are measured on them instead of the validation images",
    )
    mean: tuple[Share, Share, Share] | None = Field(
        default=None,
        exclude_if=is_none,
        description="mean of red, green and blue pixel values in [0, 1], which networks subtract; null: the dataset's",
    )
    std: tuple[Deviation, Deviation, Deviation] | None = Field(
        default=None,
        exclude_if=is_none,
        description="standard deviation by which networks divide them; null: the dataset's",
    )
    split: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="fraction of the images of every class that become the validation images, for image folders "
        "that have none",
    )

    @model_validator(mode="after")
    def _stored_covers_image(self) -> "DataConfig":
        if self.stored_size < self.image_size:
            raise ValueError(f"stored_size {self.stored_size} is smaller than image_size {self.image_size}")
        return self


Stem = Literal["auto", "imagenet", "small", "tiny-released"]


class TeacherConfig(TrainingSettings):
    """The classifier trained on the real data ("squeeze")."""

    arch: str = Field(default="resnet18", description="network name: torchvision, timm or convnet-dN")
    stem: Stem = Field(
        default="auto",
        description="first layers: imagenet as published; small = 3x3 stride 1, no max-pool; "
        "tiny-released = 3x3 stride 2 padding 3, no max-pool; auto = small up to 32 px, else imagenet",
    )
    seed: int = Field(default=0, ge=0, description="seed of the teacher's initialisation and of its batches")
    checkpoint: Path | None = Field(
        default=None,
        description="weights to use instead of training: .safetensors, or a file of torch.save, read weights-only",
    )
    classes: Path | None = Field(
        default=None,
        exclude_if=is_none,
        description="class names of the checkpoint's outputs in their order: one name per line, or a JSON list",
    )

    @model_validator(mode="after")
    def _classes_need_a_checkpoint(self) -> "TeacherConfig":
        if self.classes is not None and self.checkpoint is None:
            raise ValueError("classes names the outputs of teacher.checkpoint, which is not given")
        return self

    def of(self, arch: str) -> "TeacherConfig":
        """Returns the settings of the teacher with another network: trained here, in the same way.

        Args:
            arch: The network.

        Example:
            >>> TeacherConfig(arch="resnet18", stem="small", epochs=5).of("mobilenet_v2").stem
            'auto'
        """
        if arch == self.arch:
            return self
        return self.model_copy(update={"arch": arch, "stem": "auto", "checkpoint": None, "classes": None})

    def stem_of(self, student: str) -> Stem:
        """Returns the first layers of a student: those of the teacher if both have the same network."""
        return self.stem if student == self.arch else "auto"


class StatisticsConfig(Section):
    """Statistics of the real data at the input of every BatchNorm layer, per class."""

    variance: Literal["exact", "batch-mean"] = Field(
        default="exact",
        description="exact: over all images of the class; batch-mean: mean of within-batch variances (released)",
    )
    batch_size: int = Field(default=100, ge=1, description="images per batch (released: 100)")


class DistillConfig(Section):
    """Settings of the distillation that apply to every method."""

    jpeg_quality: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="quality of a JPEG compression of the distilled images (released: 75); null: none",
    )
    checkpoint_every: int = Field(default=50, ge=1, description="steps between checkpoints of a method's loop")


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name, re.ASCII):
        raise ValueError("write auto, cpu, cuda or cuda:N")
    return name


def device_kind(device: str) -> str:
    """Returns the kind of a device without its number, which changes no result.

    Args:
        device: The name of a device.

    Returns:
        The kind.

    Example:
        >>> device_kind("cuda:1")
        'cuda'
    """
    return device.partition(":")[0]


class RuntimeConfig(Section):
    """Device, precision, compilation, threads. They are resolved before a run: no `auto` remains in its Experiment."""

    device: Annotated[str, AfterValidator(_device)] = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 autocast if it is fast on the device"
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto", description="whether the recover loop compiles its network (auto: if it saves time)"
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        exclude_if=lambda threads: threads is None,  # it depends on the machine: records hold the number of each stage
        description="threads of a computation (default: the cores of this machine; on CUDA a GPU's share of them)",
    )
