"""What the protocols of a distilled set share: their parameters. Imports no torch."""

from pydantic import Field

from ddbench.api.evaluator import Evaluator


class DistilledSetProtocol(Evaluator, frozen=True, extra="forbid"):
    """A student trained from scratch on a distilled set: same views and optimiser steps, whatever the labels.

    Every epoch is a fresh permutation; every image gets a random-resized-crop, a flip and CutMix (one box a
    batch). Each sample's loss is multiplied by the weight of the image that was pasted onto, weights having
    mean 1 over the set. AdamW without weight decay on biases and norm scales, cosine by epoch to 0. The last
    epoch is the result; with `select_share` the epoch that is best on held-out distilled images is measured too.
    """

    epochs: int = Field(default=300, ge=1, description="epochs over the distilled set (SRe2L/FKD: 300)")
    batch_size: int = Field(
        default=100,
        ge=1,
        description="images a step, at most the whole set; a smaller last batch is kept (FKD: 100)",
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="of AdamW, on a cosine to 0 (FKD: 0.001)")
    weight_decay: float = Field(
        default=0.01, ge=0, description="of AdamW, on parameters of two or more dimensions (FKD: 0.01)"
    )
    min_crop: float = Field(
        default=0.08,
        gt=0,
        le=1,
        description="smallest part of the area that a crop keeps (torchvision: 0.08)",
    )
    cutmix_alpha: float | None = Field(
        default=1.0, gt=0, description="Beta(alpha, alpha) of CutMix's share (FKD: 1); null = no CutMix"
    )
    validate_every: int = Field(
        default=0,
        ge=0,
        description="also validate every so many epochs, to record top1_best; 0 = last epoch only",
    )

    select_share: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        # It came after version 1: unset, it is in no key and no record, which are then what they were.
        exclude_if=lambda share: share is None,
        description="share of each class's distilled images that are held out from training to choose the epoch of "
        "top1_selected (WMDD, Table 2: 0.2); null = none, the last epoch only",
    )

    def skip(self, ipc: int | None) -> str | None:
        """Refuses to hold out the only image of a class."""
        if self.select_share is None or ipc != 1:
            return None
        return "--ipc 1: evaluator.select_share holds out at least one image of a class, and one must be trained on"

    def image_passes(self, images: int) -> int:
        """Images through the student: every image once an epoch."""
        return images * self.epochs
