"""SRe2L's recovery of one unit: the teacher's cross-entropy and its own BatchNorm statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddbench import losses
from ddbench.api import Unit

if TYPE_CHECKING:
    from ddbench.api import DistillTask, Output
    from ddbench_sre2l import SRe2L


def distill(method: SRe2L, task: DistillTask, unit: Unit) -> Tensor:
    """Images of one unit, [n, 3, S, S] in [0, 1], recovered from noise.

    The loss is the mean cross-entropy to the slots' classes plus `bn_weight` times the distance of the batch's
    BatchNorm statistics to the running ones, as in the released code. Its image priors (total variation, l2)
    are left out: its scripts give them weight 0.
    """
    labels = torch.tensor([slot.label for slot in unit.slots], device=task.device)
    means, variances = task.teacher.running_statistics()

    def objective(output: Output) -> dict[str, Tensor]:
        terms = {"cross_entropy": losses.cross_entropy(output.logits, labels)}
        if method.bn_weight:
            alignment = losses.global_bn(output.bn_inputs, means, variances, method.first_bn_scale)
            terms["bn"] = method.bn_weight * alignment
        return terms

    return task.recover(unit, objective, task.noise(unit), method)
