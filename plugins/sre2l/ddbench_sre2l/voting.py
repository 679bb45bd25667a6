"""Recovers the images of one unit for CV-DD: the weighted losses of several teachers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddbench.nn import autocast
from ddbench_sre2l.inversion import loss_terms

if TYPE_CHECKING:
    from ddbench.api import DistillTask, Unit
    from ddbench_sre2l.cvdd import CVDD


def distill(method: CVDD, task: DistillTask, unit: Unit, initial: Tensor) -> Tensor:
    """Optimises the images of one unit. Each step passes one view through every teacher of the committee.

    The committee is that of the first slot: the slots of a unit have the same index.

    Args:
        method: The hyper-parameters.
        task: The task.
        unit: The unit.
        initial: The initial images, normalised.

    Returns:
        The images [n, 3, S, S] in [0, 1].
    """
    labels = torch.tensor([slot.label for slot in unit.slots], device=task.device)
    members = method.members(unit.slots[0].index)
    names = [method.teachers[number] for number in members] if method.teachers else []
    teachers = task.teachers(*names) if names else [task.teacher]
    statistics = [teacher.running_statistics() for teacher in teachers]
    weights = method.vote_weights(*members)

    def loss(images: Tensor, step: int) -> dict[str, Tensor]:
        view = task.view(unit, images, method, step).contiguous(memory_format=torch.channels_last)
        total: dict[str, Tensor] = {}
        for teacher, target, weight in zip(teachers, statistics, weights, strict=True):
            with autocast(task.device, task.precision):
                terms = loss_terms(method, teacher(view, moments=True), labels, target)
            for name, term in terms.items():
                total[name] = total.get(name, 0) + weight * term
        return total

    return task.optimise(unit, loss, initial, method)
