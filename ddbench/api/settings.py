"""Settings that several methods and protocols share, as pydantic models. Imports no torch."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, field_validator, model_validator

from ddbench.core.errors import DDBenchError, unknown


class Section(BaseModel, frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False):
    """Base class of the sections of the configuration. It rejects unknown names, NaN and infinity."""


class TrainingSettings(Section):
    """Hyper-parameters for training a network.

    Example:
        >>> TrainingSettings(epochs=20).learning_rate
        0.025
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.025, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD; AdamW uses (0.9, 0.999)")
    weight_decay: float = Field(default=1e-4, ge=0)
    decay_vectors: bool = Field(
        default=True, description="whether weight decay also acts on biases, norm scales and embeddings"
    )
    batch_size: int = Field(default=32, ge=1)
    epochs: int = Field(default=100, ge=1)
    schedule: Literal["cosine", "one-cycle"] = Field(
        default="cosine",
        exclude_if=lambda schedule: schedule == "cosine",
        description="learning rate by epoch: cosine to 0; one-cycle = a line up in the first quarter, then down to 0",
    )
    crop_scale_min: float = Field(
        default=0.08,
        gt=0,
        le=1,
        exclude_if=lambda scale: scale == 0.08,
        description="smallest area of the random-resized-crop of real images (torchvision's default)",
    )
    start_size: int | None = Field(
        default=None,
        ge=4,
        exclude_if=lambda size: size is None,
        description="side of the real images in the first epochs, in pixels; null: image_size in all epochs",
    )

    def sizes(self, image_size: int) -> list[int]:
        """Returns the side of the real images in each epoch.

        From `start_size` it grows in steps of 16 pixels, and is `image_size` in the last quarter of the epochs.

        Args:
            image_size: The side of the images in pixels.

        Example:
            >>> TrainingSettings(epochs=12, start_size=32).sizes(64)
            [32, 32, 32, 32, 32, 48, 48, 48, 48, 64, 64, 64]
        """
        start = min(self.start_size or image_size, image_size)
        growth = [min(1.0, 4 * epoch / (3 * self.epochs)) * (image_size - start) for epoch in range(self.epochs)]
        return [image_size if step >= image_size - start else start + 16 * int(step / 16) for step in growth]

    def full_size_epochs(self, image_size: int) -> float:
        """Returns the number of epochs, in which smaller images count by their area.

        Args:
            image_size: The side of the images in pixels.

        Example:
            >>> TrainingSettings(epochs=12, start_size=32).full_size_epochs(64)
            6.5
        """
        return sum((size / image_size) ** 2 for size in self.sizes(image_size))


class RecoverSettings(BaseModel, frozen=True):
    """Hyper-parameters of the pixel-optimisation loop `DistillTask.recover`.

    Use it as a base class of a Distiller: the fields become hyper-parameters of the method, and `self` can be passed to
    `task.recover`.

    Example:
        A method that inverts the teacher:

            class Invert(RecoverSettings, Distiller):
                name = "invert"
                version = "1"

                def distill(self, task, unit):
                    ...
                    return task.recover(unit, objective, task.noise(unit), self)

    Attributes:
        starts: The values of `initial` that name no set.
    """

    starts: ClassVar[tuple[str, ...]] = ("noise",)

    batch_settings: ClassVar[tuple[str, ...]] = ("batch_size",)

    steps: int = Field(default=2000, ge=1, description="optimisation steps per unit (WMDD Table 7: 2000)")
    learning_rate: float = Field(
        default=0.25, gt=0, description="learning rate of Adam, cosine to 0 (WMDD Table 7: 0.25; Tiny 0.1)"
    )
    betas: tuple[float, float] = Field(default=(0.5, 0.9), description="betas of Adam (WMDD Table 7)")
    batch_size: int = Field(default=100, ge=1, description="images optimised together (WMDD Table 7: 100)")
    crop_scale_min: float = Field(
        default=0.08,
        gt=0,
        le=1,
        description="smallest area of the random-resized-crop (torchvision's default)",
    )
    crop_per_image: bool = Field(
        default=True, description="draw crop and flip for each image; false: once per batch (released code)"
    )
    flip: bool = Field(
        default=True,
        # Added later. The default is excluded, so that existing keys and records do not change.
        exclude_if=lambda flip: flip,
        description="flip the views left-right with probability 1/2; false: for data whose class a flip changes, "
        "such as digits",
    )
    jitter: int = Field(
        default=32,
        ge=0,
        description="roll by 0..jitter pixels down and right, once per batch (released code: 32 at 224 px)",
    )
    centred_jitter: bool = Field(
        default=False,
        # Added later. The default is excluded, so that existing keys and records do not change.
        exclude_if=lambda centred: not centred,
        description="roll by -jitter..jitter instead of 0..jitter pixels (SRe2L on Tiny ImageNet)",
    )

    initial: str = Field(
        default="noise",
        # Added later. The default is excluded, so that existing keys and records do not change.
        exclude_if=lambda initial: initial == "noise",
        description="initial images; noise: standard normal; a file, a folder or set:DIGEST: those of a distilled set, "
        "by class and number",
    )

    def given_set(self) -> str | None:
        """Returns the distilled set that `initial` names; None if it is one of `starts`."""
        return None if self.initial in self.starts else self.initial

    def recover_steps(self) -> int:
        """Returns the number of optimisation steps per unit."""
        return self.steps

    def crop_scale(self, step: int) -> tuple[float, float]:
        """Returns the range of the area of random-resized-crops at one step. Override it for a curriculum.

        Args:
            step: The optimisation step, from 0.

        Returns:
            Smallest and largest area as fractions of the image, in (0, 1].
        """
        return self.crop_scale_min, 1.0

    @field_validator("betas")
    @classmethod
    def _require_below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("both must be at least 0 and below 1")
        return betas


class CommitteeSettings(BaseModel, frozen=True):
    """Hyper-parameters of teachers that vote by weight. Use it as a base class of a Distiller or an Evaluator.

    Source: CV-DD (`Jiacheng8/CV-DD:recover/utils_recover.py`, `load_recover_model`, and `relabel/relabel.py`).

    Example:
        Weights 1 / (1 + 1 / e) and 1 / (1 + e):

        >>> settings = CommitteeSettings(teachers=("a", "b"), priors=(60, 50))
        >>> [round(weight, 4) for weight in settings.vote_weights(0, 1)]
        [0.7311, 0.2689]
    """

    teachers: tuple[str, ...] = Field(
        default=("resnet18", "resnet50", "shufflenet_v2_x1_0", "mobilenet_v2", "densenet121"),
        description="networks of the teachers (CV-DD: these five); empty = the teacher of the run alone (SRe2L++)",
    )
    priors: tuple[float, ...] = Field(
        default=(),
        description="prior accuracy of each teacher in percent: that of students of a set that it distils alone "
        "(CV-DD, ImageNette: 62.4, 52, 57.2, 54, 60.8); empty = equal weights",
    )
    prior_temperature: float = Field(
        default=10.0,
        gt=0,
        description="temperature of the softmax of the priors, in percentage points (CV-DD: 5 for images, 10 for "
        "labels)",
    )

    @model_validator(mode="after")
    def _require_a_prior_for_each_teacher(self) -> Self:
        count = len(self.teachers) or 1
        if self.priors and len(self.priors) != count:
            raise ValueError(
                f"priors has {len(self.priors)} numbers for {count} teachers: "
                "give one for each, or [] for equal weights"
            )
        return self

    def teacher_pool(self) -> tuple[str, ...]:
        """Returns the networks of the teachers."""
        return self.teachers

    def vote_weights(self, *members: int) -> tuple[float, ...]:
        """Computes the weights of some of the teachers: the softmax of their priors over the temperature.

        Args:
            *members: The numbers of the teachers, from 0.

        Returns:
            The weights in this order, of sum 1.
        """
        import torch

        priors = [self.priors[number] if self.priors else 0.0 for number in members]
        return tuple((torch.tensor(priors, dtype=torch.float64) / self.prior_temperature).softmax(0).tolist())


OPERATIONS = ("color", "crop", "cutout", "flip", "rotate", "scale")
DSA_STRATEGY = "color_crop_cutout_flip_scale_rotate"
"""All operations of siamese augmentation: the strategy of DSA and DM on natural images."""


def operations_of(strategy: str) -> list[str]:
    """Splits a strategy of siamese augmentation into its operations.

    Args:
        strategy: Names of operations joined by underscores.

    Returns:
        The names of the operations.

    Raises:
        DDBenchError: A name is not one of `OPERATIONS`.

    Example:
        >>> operations_of("crop_cutout")
        ['crop', 'cutout']
    """
    operations = strategy.split("_")
    for name in operations:
        if name not in OPERATIONS:
            raise unknown("operation of siamese augmentation", name, OPERATIONS)
    return operations


def _validate_strategy(strategy: str | None) -> str | None:
    try:
        if strategy is not None:
            operations_of(strategy)
    except DDBenchError as error:
        raise ValueError(str(error)) from error
    return strategy


Strategy = Annotated[str | None, AfterValidator(_validate_strategy)]
"""Type of a setting that names a strategy of siamese augmentation. None: no augmentation."""
