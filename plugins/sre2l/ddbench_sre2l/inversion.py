"""Recovers the images of one unit for SRe2L: a network's cross-entropy and BatchNorm alignment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from ddbench import losses
from ddbench.api import Unit

if TYPE_CHECKING:
    from ddbench.api import DistillTask, Output, Phase, Teacher
    from ddbench_sre2l.sre2l import SRe2L


def distill(
    method: SRe2L,
    task: DistillTask,
    unit: Unit,
    networks: Sequence[Teacher] = (),
    initial: Tensor | None = None,
    phases: Sequence[Phase] = (),
) -> Tensor:
    """Optimises the images of one unit.

    The loss is the mean cross-entropy with the slots' classes plus `bn_weight` times the distance of the batch's
    BatchNorm statistics to the running statistics of the network, as in the released code. The image priors of the
    released code (total variation, l2) are omitted, because its scripts set their weights to 0.

    Args:
        method: The hyper-parameters.
        task: The task.
        unit: The unit.
        networks: The networks that are inverted, in turn. Empty: the teacher.
        initial: The initial images, normalised. None: noise.
        phases: The phases of the recover loop.

    Returns:
        The images [n, 3, S, S] in [0, 1].
    """
    labels = torch.tensor([slot.label for slot in unit.slots], device=task.device)
    statistics = [network.running_statistics() for network in networks or (task.teacher,)]

    def objective(output: Output) -> dict[str, Tensor]:
        return loss_terms(method, output, labels[output.rows], statistics[output.turn])

    start = task.noise(unit) if initial is None else initial
    return task.recover(unit, objective, start, method, networks=networks, phases=phases)


def loss_terms(
    method: SRe2L, output: Output, labels: Tensor, statistics: tuple[list[Tensor], list[Tensor]]
) -> dict[str, Tensor]:
    """Computes the terms of the loss from one pass through a network.

    Args:
        method: The hyper-parameters.
        output: The output of the network.
        labels: The classes of the images [n].
        statistics: The running means and variances of the network.

    Returns:
        The cross-entropy and the weighted BatchNorm alignment, if the network has BatchNorm.
    """
    terms = {"cross_entropy": losses.cross_entropy(output.logits, labels)}
    if method.bn_weight and output.bn_inputs:
        terms["bn"] = method.bn_weight * losses.global_bn(output.bn_inputs, *statistics, method.first_bn_scale)
    return terms


def resize(images: Tensor, size: int) -> Tensor:
    """Resizes images [n, 3, S, S] to [n, 3, size, size], bilinear as in FADRM's released code."""
    return functional.interpolate(images, (size, size), mode="bilinear", align_corners=False)


def mix(real: Tensor, share: float, size: int, images: Tensor) -> Tensor:
    """Resizes two sets of images and mixes them. Source: FADRM's released code (`recover/recover.py`).

    Args:
        real: Real images [n, 3, S, S].
        share: The share of `images`, in [0, 1].
        size: The side of the result in pixels.
        images: Optimised images [n, 3, T, T].

    Returns:
        Images [n, 3, size, size].

    Example:
        >>> mix(torch.zeros(1, 3, 4, 4), 0.25, 2, torch.ones(1, 3, 3, 3))[0, 0]
        tensor([[0.2500, 0.2500],
                [0.2500, 0.2500]])
    """
    return share * resize(images, size) + (1 - share) * resize(real, size)
