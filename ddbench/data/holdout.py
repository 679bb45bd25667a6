"""Holds out a part of the training images, to measure accuracy on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ddbench.core import seeds
from ddbench.core.errors import DDBenchError
from ddbench.data.images import Images

HOLDOUT_VERSION = "1"
"""Part of the keys of runs with held-out images or `data.split`. Increase it if the draw changes."""


def hold_out(
    labels: Tensor, class_names: Sequence[str], share: float, setting: Literal["holdout", "split"] = "holdout"
) -> tuple[Tensor, Tensor]:
    """Divides the training images into remaining and held-out ones.

    The draw of each class is seeded by the setting and the class name only. It is therefore the same for every run and
    does not depend on the other classes. A larger `share` holds out the same images and further ones.

    Args:
        labels: int64 [n].
        class_names: The names of the classes, in label order.
        share: The fraction to hold out, between 0 and 1. Of c images of a class, round(share * c) are held out, and at
            least 1.
        setting: The setting of `data` that determines the share: "holdout" or "split". Their draws differ.

    Returns:
        The indices of the remaining and of the held-out images, int64, ascending.

    Raises:
        DDBenchError: No image of a class would remain.

    Example:
        >>> train, held_out = hold_out(torch.tensor([0, 0, 0, 0, 1, 1]), ["cat", "dog"], 0.25)
        >>> train, held_out
        (tensor([1, 2, 3, 4]), tensor([0, 5]))
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label, name in enumerate(class_names):
        indices = (labels == label).nonzero().squeeze(1)
        count = max(1, round(share * len(indices)))
        if count >= len(indices):
            raise DDBenchError(
                f"data.{setting} {share} leaves none of the {len(indices)} training images of class '{name}'; "
                "use a smaller share or more images"
            )
        order = torch.randperm(len(indices), generator=seeds.generator(setting, name))
        held[indices[order[:count]]] = True
    return (~held).nonzero().squeeze(1), held.nonzero().squeeze(1)


class ImageSubset(Images):
    """Some of the images of a split.

    Args:
        images: The images of the split.
        rows: The positions to keep, int64 [n], ascending.
    """

    def __init__(self, images: Images, rows: Tensor) -> None:
        super().__init__(images.labels[rows], images.sizes[rows], images.positions[rows])
        self._images = images
        self._rows = rows

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self._images.read(self._rows[indices])

    def centre(self, indices: Tensor, size: int) -> Tensor:
        return self._images.centre(self._rows[indices], size)
