"""A part of the training images kept away from everything, to measure on in place of the validation images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ddbench.core import seeds
from ddbench.core.errors import DDBenchError
from ddbench.data.images import Images

HOLDOUT_VERSION = "1"
"""Part of the keys wherever images are held out: bump it when other images are drawn."""


def hold_out(labels: Tensor, class_names: Sequence[str], share: float) -> tuple[Tensor, Tensor]:
    """Which training images stay, and which are held out: two int64 lists of ascending indices.

    `labels` int64 [n]. Of a class of c images round(`share` x c) are held out, at least one. They are drawn by
    a generator that the class's name alone seeds: the same for every run, whatever the other classes and their
    order, and a larger share holds out the same images and more. Raises DDBenchError where no image of a class
    would stay.
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label, name in enumerate(class_names):
        mine = (labels == label).nonzero().squeeze(1)
        count = max(1, round(share * len(mine)))
        if count >= len(mine):
            raise DDBenchError(
                f"data.holdout {share} leaves none of the {len(mine)} training images of class '{name}': "
                "a smaller share, or more images, are needed"
            )
        order = torch.randperm(len(mine), generator=seeds.generator("holdout", name))
        held[mine[order[:count]]] = True
    return (~held).nonzero().squeeze(1), held.nonzero().squeeze(1)


class ImageSubset(Images):
    """Some of the images of `whole`: those at `rows`, int64 [n], ascending."""

    def __init__(self, whole: Images, rows: Tensor) -> None:
        super().__init__(whole.labels[rows], whole.sizes[rows])
        self._whole = whole
        self._rows = rows

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self._whole.read(self._rows[indices])

    def centre(self, indices: Tensor, size: int) -> Tensor:
        return self._whole.centre(self._rows[indices], size)
