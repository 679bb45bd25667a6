"""The loss of G-VBSM: the shared terms, and the density of each class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from ddbench_gvbsm.matching import MatchingLoss

if TYPE_CHECKING:
    from ddbench.api import DistillTask, Unit
    from ddbench_gvbsm.gvbsm import GVBSM

DENSITY_SIZE = 32
"""Side to which images are averaged for their Gram matrix, in pixels (released code)."""


class DensityLoss(MatchingLoss):
    """The loss of G-VBSM."""

    method: GVBSM

    def view(self, images: Tensor, step: int) -> Tensor:
        """Returns the view of a step."""
        return draw_view(self.method, self.task, self.unit, images, step)

    def further_terms(self, images: Tensor, view: Tensor, logits: Tensor, step: int) -> dict[str, Tensor]:
        """Returns the density."""
        return {"density": self.method.density_weight * density(view, self.labels, self.method.temperature)}


def draw_view(method: GVBSM, task: DistillTask, unit: Unit, images: Tensor, step: int) -> Tensor:
    """Draws the view of a step: that of `task.view`, or with `padding` one padded crop, flip and roll for all images.

    Args:
        method: The hyper-parameters.
        task: The task.
        unit: The unit.
        images: Normalised images [n, 3, S, S].
        step: The step.

    Returns:
        The view [n, 3, S, S].
    """
    if not method.padding:
        return task.view(unit, images, method, step)
    generator, size = task.generator("padded crop", unit.index, step), images.shape[-1]
    top, left = torch.randint(2 * method.padding + 1, (2,), generator=generator).tolist()
    view = functional.pad(images, [method.padding] * 4)[..., top : top + size, left : left + size]
    if method.flip and torch.rand((), generator=generator) < 0.5:
        view = view.flip(3)
    lowest = -method.jitter if method.centred_jitter else 0
    down, right = torch.randint(lowest, method.jitter + 1, (2,), generator=generator).tolist()
    return view.roll((down, right), (2, 3))


def density(images: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Computes the sum over classes of KL(softmax(l / temperature) || softmax(l)), l the eigenvalues of a Gram matrix.

    The target is constant. The Gram matrix is that of the images of a class, averaged to 32 px.

    Args:
        images: Normalised images [n, 3, S, S].
        labels: Their classes [n].
        temperature: The temperature of the target.

    Returns:
        A scalar; 0 for one image per class.
    """
    flat = functional.adaptive_avg_pool2d(images, DENSITY_SIZE).flatten(1)
    total = torch.zeros((), device=images.device, dtype=flat.dtype)
    for label in torch.unique(labels):
        rows = flat[labels == label]
        eigenvalues = torch.linalg.eigvalsh(rows @ rows.T)
        target = torch.softmax(eigenvalues.detach() / temperature, 0)
        total = total + functional.kl_div(eigenvalues.log_softmax(0), target, reduction="sum")
    return total
