"""Real images of medium confidence, from which DELT and FADRM+ start."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddbench.training import class_confidence

if TYPE_CHECKING:
    from ddbench.api import DistillTask, Unit


def medium_ranks(count: int, wanted: int) -> list[int]:
    """Returns ranks around the middle: the middle, the next, the one before, and so on.

    Source: `VILA-Lab/DELT:data_selection.py`, `store_medium`. Ranks beyond an end go on at the other end.

    Args:
        count: The number of ranked images.
        wanted: The number of ranks, at most `count`.

    Example:
        >>> medium_ranks(9, 4)
        [5, 6, 4, 7]
    """
    middle = -(-count // 2)
    offsets = [(index + 1) // 2 * (1 if index % 2 else -1) for index in range(wanted)]
    return [(middle + offset) % count for offset in offsets]


@torch.no_grad()
def medium_images(task: DistillTask, unit: Unit) -> Tensor:
    """Returns one real image for each slot, of medium probability of its class for the teacher.

    Args:
        task: The task.
        unit: The unit. The slot (class, j) has the image of the j-th of `medium_ranks`.

    Returns:
        Central views, normalised, float32 [n, 3, S, S], on the task's device.
    """
    rows: dict[tuple[int, int], Tensor] = {}
    for label in {slot.label for slot in unit.slots}:
        ascending = task.cached("confidence", {"class": label}, partial(_by_confidence, task, label))["indices"]
        for index, rank in enumerate(medium_ranks(len(ascending), task.ipc)):
            rows[label, index] = ascending[rank]
    chosen = torch.stack([rows[slot.label, slot.index] for slot in unit.slots])
    return task.dataset.evaluation_view("train", chosen).to(task.device)


def _by_confidence(task: DistillTask, label: int) -> dict[str, Tensor]:
    """Returns the images of a class by ascending probability of the class for the teacher, as `indices` [n]."""
    confidence = class_confidence(task.teacher, task.dataset, label, task.device)
    return {"indices": task.dataset.train.of_class(label)[confidence.argsort(stable=True)]}
