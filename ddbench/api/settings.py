"""Settings that several methods and protocols share, as pydantic models. Imports no torch."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, field_validator

from ddbench.core.errors import DDBenchError, unknown


class Section(BaseModel, frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False):
    """A part of the configuration: unknown names are refused."""


class TrainingSettings(Section):
    """Hyper-parameters of one training run of a network."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.025, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD; AdamW uses (0.9, 0.999)")
    weight_decay: float = Field(default=1e-4, ge=0)
    decay_vectors: bool = Field(default=True, description="whether weight decay also acts on biases and norm scales")
    batch_size: int = Field(default=32, ge=1)
    epochs: int = Field(default=100, ge=1, description="epochs; the learning rate follows a cosine to 0 by epoch")


class RecoverSettings(BaseModel, frozen=True):
    """Mix this into a Distiller: the fields become hyper-parameters of the method."""

    steps: int = Field(default=2000, ge=1, description="optimisation steps a unit (WMDD Table 7: 2000)")
    learning_rate: float = Field(
        default=0.25, gt=0, description="Adam's rate, cosine to 0 (WMDD Table 7: 0.25; Tiny 0.1)"
    )
    betas: tuple[float, float] = Field(default=(0.5, 0.9), description="Adam's moments (WMDD Table 7)")
    batch_size: int = Field(default=100, ge=1, description="images optimised together (WMDD Table 7: 100)")
    crop_scale_min: float = Field(
        default=0.08,
        gt=0,
        le=1,
        description="smallest area of the random-resized-crop (torchvision's default)",
    )
    crop_per_image: bool = Field(
        default=True, description="draw crop and flip for each image; false: once a batch (released code)"
    )
    jitter: int = Field(
        default=32,
        ge=0,
        description="roll by 0..jitter pixels down and right, once a batch (released code: 32 at 224 px)",
    )

    def crop_scale(self, step: int) -> tuple[float, float]:
        """Range of a crop's area at `step` (from 0), within (0, 1]. Override it for a curriculum."""
        return self.crop_scale_min, 1.0

    @field_validator("betas")
    @classmethod
    def _below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("both must be at least 0 and below 1")
        return betas


OPERATIONS = ("color", "crop", "cutout", "flip", "rotate", "scale")
DSA_STRATEGY = "color_crop_cutout_flip_scale_rotate"
"""Every operation: the strategy of DSA and DM on natural images."""


def operations_of(strategy: str) -> list[str]:
    """The operations that a strategy joins by underscores. Raises DDBenchError for an unknown one."""
    operations = strategy.split("_")
    for name in operations:
        if name not in OPERATIONS:
            raise unknown("operation of siamese augmentation", name, OPERATIONS)
    return operations


def _checked(strategy: str | None) -> str | None:
    try:
        if strategy is not None:
            operations_of(strategy)
    except DDBenchError as error:
        raise ValueError(str(error)) from error
    return strategy


Strategy = Annotated[str | None, AfterValidator(_checked)]
"""The type of a setting that names a strategy; None: no augmentation."""
