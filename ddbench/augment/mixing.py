"""Seeded batched augmentation on device: a view is a function of (seed, epoch, position in the permutation).

A crop is two small matrices: the separable antialiased bilinear resize of a box is `rows @ image @
columns.T`, one batched matrix product for a whole batch of different boxes, differentiable and deterministic
on any device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Mix:
    """CutMix of one batch: `partner` int64 [B] (positions in the batch), pasted `box`, `share` that stays."""

    partner: Tensor
    box: Box
    share: float


def cutmix_box(size: int, kept: float, row: int, column: int) -> Box:
    """The box that CutMix pastes: top, left, height, width in pixels of a `size` x `size` image.

    `kept` in [0, 1] is the share drawn from Beta(alpha, alpha); the box, of side size * sqrt(1 - kept), is
    centred on (`row`, `column`) and cut at the borders. Source: CutMix (Yun et al. 2019) as in the released
    FKD relabel code.
    """
    half = int(size * math.sqrt(1 - kept)) // 2
    top, left = max(row - half, 0), max(column - half, 0)
    return top, left, min(row + half, size) - top, min(column + half, size) - left


def share_of(box: Box, size: int) -> float:
    """The part of a `size` x `size` image that CutMix leaves as it was: 1 - box area / image area."""
    return 1 - box[2] * box[3] / size**2


def cutmix(images: Tensor, partner: Tensor, box: Box) -> Tensor:
    """CutMix of a batch [B, 3, S, S]: region `box` of image b is that of `partner[b]` (int64 [B])."""
    mixed, region = images.clone(), _region(box)
    mixed[region] = images[region][partner]
    return mixed


def paste(images: Tensor, others: Tensor, box: Box) -> Tensor:
    """CutMix of part of a batch [B, 3, S, S]: region `box` of image b is that of `others[b]`."""
    mixed, region = images.clone(), _region(box)
    mixed[region] = others[region]
    return mixed


def _region(box: Box) -> tuple[slice, slice, slice, slice]:
    top, left, height, width = box
    return slice(None), slice(None), slice(top, top + height), slice(left, left + width)
