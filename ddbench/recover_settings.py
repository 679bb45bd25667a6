"""Hyper-parameters of the recover loop, shared by every method that uses it. Imports no torch."""

from pydantic import BaseModel, Field, field_validator


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
