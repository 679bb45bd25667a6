"""The loss of EDC: statistics of all real images and of each class, and flatness; the images that it starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddbench import losses
from ddbench.nn import autocast
from ddbench.training import stitched_patches
from ddbench_gvbsm.edc import CROPS, FACTOR
from ddbench_gvbsm.matching import MatchingLoss, Targets, grouped, moving_average

if TYPE_CHECKING:
    from ddbench.api import DistillTask, Unit
    from ddbench_gvbsm.edc import EDC

AVERAGE = "average images"


def initial_images(method: EDC, task: DistillTask, unit: Unit) -> Tensor:
    """Returns the normalised images [n, 3, S, S] that a unit of whole classes starts from."""
    labels = dict.fromkeys(slot.label for slot in unit.slots)
    if method.initial == "rded":
        count = method.crop_sources(task.ipc)
        return task.dataset.normalise(torch.cat([stitched_patches(task, k, count, CROPS, FACTOR) for k in labels]))
    if method.initial == "real":
        rows = torch.cat([task.sample(label, task.ipc, "initial") for label in labels])
        return task.dataset.evaluation_view("train", rows)
    return task.noise(unit)


class SoftMatchingLoss(MatchingLoss):
    """The loss of EDC."""

    method: EDC

    def targets(self, number: int) -> list[Targets]:
        """Returns the statistics of all real images, and those of the classes of the unit."""
        (everything,) = super().targets(number)
        alpha, each = self.method.alpha, self.method.categories == "each"
        classes = torch.unique(self.labels)
        tensors = {name: value[classes] for name, value in self.tensors("categories", number).items()}
        statistics = grouped(tensors if each else {name: value.mean(0) for name, value in tensors.items()})
        weights = losses.class_weight_matrix(self.labels, torch.ones_like(self.labels, dtype=torch.float32))
        of_classes = Targets(statistics, 1 - alpha, weights if each else None, "categories/")
        return [everything._replace(share=alpha), of_classes]

    def view(self, images: Tensor, step: int) -> Tensor:
        """Returns the view of a step."""
        return self.task.view(self.unit, images, self.method, step)

    def further_terms(self, images: Tensor, view: Tensor, logits: Tensor, step: int) -> dict[str, Tensor]:
        """Returns the flatness, whose target is the same view of the average of the images of the earlier steps."""
        method, now = self.method, images.detach()
        if not method.flatness_weight:
            return {}
        average, teacher = self.state.get(AVERAGE, now), self.teachers[step % len(self.teachers)]
        with torch.no_grad(), autocast(self.task.device, self.task.precision):
            targets = teacher(self.view(average, step), bn=False).logits
        moving_average(self.state, AVERAGE, now, method.flatness_decay, "first")
        return {"flatness": method.flatness_weight * flatness(logits, targets, method.temperature)}


def flatness(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Computes KL(softmax(logits / temperature) || softmax(targets / temperature)), averaged over images.

    Source: paper, Eq. 7.

    Args:
        logits: Logits of the images [n, K].
        targets: Logits of the average images [n, K].
        temperature: The temperature.

    Returns:
        A scalar, in float32 at least.

    Example:
        >>> flatness(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 0.0]]), 2.0)  # p = (0.2689, 0.7311)
        tensor(0.1109)
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    actual, target = ((values.to(dtype) / temperature).log_softmax(1) for values in (logits, targets))
    return (actual.exp() * (actual - target)).sum(1).mean()
