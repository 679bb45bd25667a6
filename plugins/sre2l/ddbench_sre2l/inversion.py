"""Recovers the images of one unit for SRe2L: a network's cross-entropy and BatchNorm alignment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddbench import losses
from ddbench.api import Unit

if TYPE_CHECKING:
    from ddbench.api import DistillTask, Output, Teacher
    from ddbench_sre2l.sre2l import SRe2L


def distill(method: SRe2L, task: DistillTask, unit: Unit, networks: Sequence[Teacher] = ()) -> Tensor:
    """Optimises the images of one unit from noise.

    The loss is the mean cross-entropy with the slots' classes plus `bn_weight` times the distance of the batch's
    BatchNorm statistics to the running statistics of the network, as in the released code. The image priors of the
    released code (total variation, l2) are omitted, because its scripts set their weights to 0.

    Args:
        method: The hyper-parameters.
        task: The task.
        unit: The unit.
        networks: The networks that are inverted, in turn. Empty: the teacher.

    Returns:
        The images [n, 3, S, S] in [0, 1].
    """
    labels = torch.tensor([slot.label for slot in unit.slots], device=task.device)
    statistics = [network.running_statistics() for network in networks or (task.teacher,)]

    def objective(output: Output) -> dict[str, Tensor]:
        terms = {"cross_entropy": losses.cross_entropy(output.logits, labels)}
        if method.bn_weight:
            alignment = losses.global_bn(output.bn_inputs, *statistics[output.turn], method.first_bn_scale)
            terms["bn"] = method.bn_weight * alignment
        return terms

    return task.recover(unit, objective, task.noise(unit), method, networks=networks)
