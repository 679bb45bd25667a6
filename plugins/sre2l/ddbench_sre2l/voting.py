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


def vote_weights(method: CVDD, members: tuple[int, ...]) -> list[float]:
    """Returns the weights of the teachers of a committee: the softmax of their priors over the temperature.

    Source: the released code (`recover/utils_recover.py`, `load_recover_model`).

    Args:
        method: The hyper-parameters.
        members: The numbers of the teachers.

    Returns:
        The weights, of sum 1.

    Example:
        >>> from ddbench_sre2l.cvdd import CVDD
        >>> method = CVDD(teachers=("a", "b"), priors=(60, 55))  # 1 / (1 + 1 / e)
        >>> [round(weight, 4) for weight in vote_weights(method, (0, 1))]
        [0.7311, 0.2689]
    """
    priors = [method.priors[number] if method.priors else 0.0 for number in members]
    return (torch.tensor(priors, dtype=torch.float64) / method.prior_temperature).softmax(0).tolist()


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
    weights = vote_weights(method, members)

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
