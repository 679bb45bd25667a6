"""Checks on validation images whether each output of a classifier belongs to the class that it is assigned to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from torch import Tensor

from ddbench.core.errors import DDBenchError

FAR_ABOVE_CHANCE = 0.3
"""The accuracy in another order must be at least chance + 0.3 (1 - chance)."""
SHOWN = 12
"""Largest number of classes that the message lists."""


def check_class_order(name: str, predicted: Tensor, labels: Tensor, class_names: Sequence[str]) -> None:
    """Refuses a classifier whose accuracy is much higher with its outputs in another order.

    The best other order is the assignment of outputs to classes that maximises the sum over the confusion matrix. Its
    accuracy on the images that determine it is too high, more so with more classes. It is therefore computed on one
    half of each class's images and evaluated on the other half. Let a be the number of images that only the best order
    classifies correctly, and b the number that only the given order classifies correctly. The classifier is refused if
    the accuracy in the best order is far above chance, a is at least 3 b, and a - b is more than three standard
    deviations, 3 sqrt(a + b).

    The check selects nothing: the given order is used or the classifier is refused.

    Args:
        name: The classifier, for the message.
        predicted: int64 [n], the predicted classes.
        labels: int64 [n], sorted, the true classes.
        class_names: Names of the classes in order.

    Raises:
        DDBenchError: The accuracy is much higher in another order. The message lists the classes.
    """
    classes = len(class_names)
    counts = torch.bincount(labels, minlength=classes)
    positions = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels]
    halves = [positions % 2 == 0, positions % 2 == 1]
    right = torch.zeros(len(labels), dtype=torch.bool)
    for chosen, measured in (halves, halves[::-1]):
        order = best_outputs(predicted[chosen], labels[chosen], classes)
        right[measured] = predicted[measured] == order[labels[measured]]
    as_given = predicted == labels
    gained, lost = int((right & ~as_given).sum()), int((~right & as_given).sum())
    chance = 1 / classes
    is_far_above_chance = float(right.double().mean()) >= chance + FAR_ABOVE_CHANCE * (1 - chance)
    is_certain = gained - lost > 3 * (gained + lost) ** 0.5  # more than three standard deviations
    if not (is_far_above_chance and gained >= 3 * lost and is_certain):
        return
    order = best_outputs(predicted, labels, classes)
    top1, best = (100 * float((predicted == each[labels]).double().mean()) for each in (torch.arange(classes), order))
    moved = [f"'{class_names[int(order[c])]}' is '{class_names[c]}'" for c in range(classes) if int(order[c]) != c]
    left = f" and {len(moved) - SHOWN} more" if len(moved) > SHOWN else ""
    raise DDBenchError(
        f"{name} has its classes in another order: its top-1 is {top1:.2f} %, but {best:.2f} % if the output for "
        f"{', '.join(moved[:SHOWN])}{left}; give the order of its outputs: "
        "--set teacher.classes=FILE (one class per line)"
    )


def best_outputs(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Returns the output of each class, int64 [classes], in the assignment with the highest accuracy.

    Of several assignments with the same accuracy, it returns one that moves the fewest outputs.
    """
    confusion = torch.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes).numpy()
    _, order = linear_sum_assignment((classes + 1) * confusion + np.eye(classes, dtype=np.int64), maximize=True)
    return torch.from_numpy(order)
