"""Seeded batched augmentation on device: a view is a function of (seed, epoch, position in the permutation).

A crop is two small matrices: the separable antialiased bilinear resize of a box is `rows @ image @
columns.T`, one batched matrix product for a whole batch of different boxes, differentiable and deterministic
on any device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddbench.augment.crops import CROP_SCALE, random_boxes
from ddbench.augment.mixing import Mix, cutmix_box, share_of
from ddbench.core import seeds


@dataclass(frozen=True)
class EpochViews:
    """Every view of one epoch over n images, on the CPU, by position in the epoch's permutation.

    `order` int64 [n] (which image), `boxes` int64 [n, 4] (top, left, height, width in that image), `flips`
    bool [n], `batches` slices of positions, `mixes` one a batch, or empty without CutMix.
    """

    order: Tensor
    boxes: Tensor
    flips: Tensor
    batches: tuple[slice, ...]
    mixes: tuple[Mix, ...]


def batch_slices(n: int, batch_size: int) -> tuple[slice, ...]:
    """Slices of `batch_size` positions over n; the last may be smaller.

    A last batch of one image is joined to the batch before it: batch statistics of one image do not exist.
    """
    starts = list(range(0, n, batch_size))
    if len(starts) > 1 and n - starts[-1] == 1:
        starts.pop()
    return tuple(slice(start, stop) for start, stop in zip(starts, [*starts[1:], n], strict=True))


def epoch_views(
    n: int,
    sizes: Tensor,
    seed: int,
    epoch: int,
    batch_size: int,
    scale: tuple[float, float] = CROP_SCALE,
    cutmix_alpha: float | None = None,
    image_size: int = 224,
) -> EpochViews:
    """The views of one epoch, purely from its arguments: permutation, random-resized-crop, flip, CutMix.

    `sizes` int64 [n, 2] or [2] for all (height, width of the stored images), `scale` of the crop's area,
    `cutmix_alpha` > 0 of Beta(alpha, alpha), or None for no CutMix, `image_size` the side of a view in
    pixels. Order, crops, flips and mixing have streams of their own: without CutMix the rest stays the same.
    """
    order = torch.randperm(n, generator=seeds.generator("views", seed, epoch, "order"))
    boxes = random_boxes(sizes.expand(n, 2)[order], scale, generator=seeds.generator("views", seed, epoch, "crop"))
    flips = torch.rand(n, generator=seeds.generator("views", seed, epoch, "flip")) < 0.5
    batches = batch_slices(n, batch_size)
    mixes = () if cutmix_alpha is None else _mixes(batches, cutmix_alpha, image_size, seed, epoch)
    return EpochViews(order, boxes, flips, batches, mixes)


def _mixes(batches: tuple[slice, ...], alpha: float, size: int, seed: int, epoch: int) -> tuple[Mix, ...]:
    partners = seeds.generator("views", seed, epoch, "partner")
    # NumPy, because PyTorch's Beta distribution takes no generator.
    draws = np.random.default_rng(seeds.derive("views", seed, epoch, "mix"))
    mixes = []
    for batch in batches:
        box = cutmix_box(size, float(draws.beta(alpha, alpha)), int(draws.integers(size)), int(draws.integers(size)))
        partner = torch.randperm(batch.stop - batch.start, generator=partners)
        mixes.append(Mix(partner, box, share_of(box, size)))
    return tuple(mixes)
