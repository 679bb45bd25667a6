"""The base classes of the protocols fkd, soft and hard: their common parameters. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from ddbench.api.settings import TrainingSettings
from ddbench.config.schema import is_none
from ddbench.evaluators.length import EpochsOrSteps

Augmentation = Annotated[
    Literal["default", "none"],
    Field(
        exclude_if=lambda augmentation: augmentation == "default",
        description="none: every view is the stored image, whatever the other settings of the views; order, steps and "
        "initial weights do not change",
    ),
]
"""Type of the setting that turns the augmentation of a protocol off."""


class DistilledSetProtocol(EpochsOrSteps, frozen=True, extra="forbid"):
    """A student trained from scratch on a distilled set. Views and optimiser steps do not depend on the labels.

    Every epoch visits the images in a new random order and applies a random-resized-crop, a flip and CutMix (one
    box per batch). In the loss, a sample has the weight of the image that CutMix pastes onto. Weights are scaled to
    mean 1 over the set. The optimiser is AdamW without weight decay on biases and norm scales, or SGD; its learning
    rate decays to 0 on a cosine schedule, updated once per epoch, after an optional warm-up. The result is the
    top-1 after the last epoch. With `select_share`, the epoch with the best score on held-out distilled images is
    measured too.
    """

    batch_settings = ("batch_size",)

    # Settings with `exclude_if` were added after version 1. Their default is excluded from keys and records, so that
    # existing ones remain valid.

    epochs: int | None = Field(
        default=300, ge=1, description="epochs over the distilled set (SRe2L/FKD: 300); null with steps"
    )
    batch_size: int = Field(
        default=100,
        ge=1,
        description="images per step, at most the whole set; a smaller last batch is kept (SRe2L: 1024; WMDD: 100)",
    )
    learning_rate: float = Field(
        default=1e-3, gt=0, description="initial learning rate of the optimiser (FKD: AdamW, 0.001)"
    )
    weight_decay: float = Field(
        default=0.01, ge=0, description="weight decay of AdamW, on parameters of two or more dimensions (FKD: 0.01)"
    )
    optimizer: Literal["adamw", "sgd"] = Field(
        default="adamw",
        exclude_if=lambda optimizer: optimizer == "adamw",
        description="adamw (SRe2L on ImageNet-1K), or sgd with momentum 0.9 and weight decay on all parameters "
        "(SRe2L on Tiny ImageNet)",
    )
    warmup_epochs: int = Field(
        default=0,
        ge=0,
        exclude_if=lambda epochs: epochs == 0,
        description="first epochs, in which the learning rate rises linearly from a hundredth of its value; the cosine "
        "schedule takes the other epochs (SRe2L on Tiny ImageNet: 5)",
    )
    min_crop: float = Field(
        default=0.08,
        gt=0,
        le=1,
        description="smallest fraction of the area that a crop keeps (torchvision: 0.08)",
    )
    cutmix_alpha: float | None = Field(
        default=1.0, gt=0, description="alpha of CutMix's Beta(alpha, alpha) distribution (FKD: 1); null = no CutMix"
    )
    augmentation: Augmentation = "default"
    validate_every: int = Field(
        default=0,
        ge=0,
        description="epochs between two validations, which give top1_best; 0 = last epoch only",
    )

    select_share: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        exclude_if=is_none,
        description="fraction of each class's distilled images that is held out from training to select the epoch of "
        "top1_selected (WMDD, Table 2: 0.2); null = none, the last epoch only",
    )

    @property
    def loss_scale(self) -> float:
        """The factor of the loss."""
        return 1.0

    @property
    def shuffle_factor(self) -> int:
        """The patches along a side of an image that every view shuffles; 1: no patch shuffling."""
        return 1

    @property
    def colour_noise(self) -> tuple[float, float] | None:
        """The strengths of colour jitter and lighting noise of every view; None: neither."""
        return None

    @property
    def average_decay(self) -> float | None:
        """The decay of the average of the student's weights that is measured; None: the weights themselves."""
        return None

    def training(self, batch_size: int) -> TrainingSettings:
        """Returns the optimiser and its hyper-parameters, without the length of the training.

        Args:
            batch_size: The images per step, at most the whole set.
        """
        return TrainingSettings(
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            decay_vectors=self.optimizer == "sgd",
            batch_size=batch_size,
        )

    def skip(self, ipc: int | None) -> str | None:
        """Refuses IPC 1 if images are held out."""
        if self.select_share is None or ipc != 1:
            return None
        return (
            "--ipc 1: evaluator.select_share holds out at least one image of each class, and none is left to train on"
        )


class TeacherLabelProtocol(DistilledSetProtocol, frozen=True, extra="forbid"):
    """A student that learns from the logits of one teacher, or from their mean over several teachers."""

    teachers: tuple[str, ...] = Field(
        default=(),
        exclude_if=lambda teachers: not teachers,
        description="networks of the teachers whose logits are averaged (G-VBSM, EDC); empty = the teacher alone",
    )

    def teacher_pool(self) -> tuple[str, ...]:
        """Returns the networks of the teachers."""
        return self.teachers

    def label_passes(self, images: int) -> int:
        """Counts every view of the student."""
        return self.image_passes(images)


class SoftTargetProtocol(TeacherLabelProtocol, frozen=True, extra="forbid"):
    """A student that matches soft labels by their KL divergence at a temperature."""

    temperature: float = Field(default=20.0, gt=0, description="temperature of both softmaxes (SRe2L: 20)")
    squared_temperature: bool = Field(
        default=False,
        exclude_if=lambda squared: not squared,
        description="multiply the loss by the temperature squared (SRe2L on Tiny ImageNet)",
    )

    @property
    def loss_scale(self) -> float:
        """The factor of the loss: 1, or the temperature squared."""
        return self.temperature**2 if self.squared_temperature else 1.0
