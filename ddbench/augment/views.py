"""The augmented views of an epoch. A view depends only on (seed, epoch, position in the permutation)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ddbench.augment.colours import Colours, random_colours
from ddbench.augment.crops import CROP_SCALE, random_boxes
from ddbench.augment.mixing import Mix, cutmix_box, kept_share
from ddbench.augment.shuffling import random_places
from ddbench.core import seeds


@dataclass(frozen=True)
class EpochViews:
    """The views of one epoch over n images, on the CPU, in the order of the epoch's permutation.

    Attributes:
        order: Index of the image at each position, int64 [n].
        boxes: Crop box of each position (top, left, height, width in that image), int64 [n, 4].
        flips: Whether the view is flipped left-right, bool [n].
        batches: Slices of positions, one per batch.
        mixes: CutMix of each batch; empty without CutMix.
        places: New places of the rows and the columns of patches of each image (`shuffling.shuffle_patches`), int64
            [n, 2, factor]; None without patch shuffling.
        colours: Colour jitter and lighting noise of each position; None without them.
    """

    order: Tensor
    boxes: Tensor
    flips: Tensor
    batches: tuple[slice, ...]
    mixes: tuple[Mix, ...]
    places: Tensor | None = None
    colours: Colours | None = None

    def unaugmented(self, size: int) -> EpochViews:
        """Returns the same order and batches without patch shuffling, crops, flips, colours and CutMix.

        Args:
            size: Side of the images and the views in pixels.
        """
        whole = torch.tensor([0, 0, size, size]).expand(len(self.order), 4)
        return replace(self, boxes=whole, flips=torch.zeros_like(self.flips), mixes=(), places=None, colours=None)


def batch_slices(n: int, batch_size: int) -> tuple[slice, ...]:
    """Divides n positions into batches.

    A last batch of one image is joined to the batch before it, because BatchNorm cannot compute batch statistics of one
    image.

    Args:
        n: Number of positions.
        batch_size: Positions per batch; the last batch may be smaller, or one larger.

    Returns:
        Consecutive slices that cover 0 to n.

    Example:
        >>> batch_slices(5, 2)
        (slice(0, 2, None), slice(2, 5, None))
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
    factor: int = 1,
    colour_noise: tuple[float, float] | None = None,
) -> EpochViews:
    """Draws the views of one epoch: permutation, patch shuffling, random-resized-crop, flip, colours and CutMix.

    The result depends only on the arguments. Order, patches, crops, flips, colours and mixing have separate random
    streams, so turning one of them off changes nothing else.

    Args:
        n: Number of images.
        sizes: Height and width of the stored images in pixels, int64 [n, 2], or [2] for all.
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.
        batch_size: Images per batch; see `batch_slices`.
        scale: Range of crop area / image area, within (0, 1].
        cutmix_alpha: alpha > 0 of Beta(alpha, alpha), from which lambda of CutMix is drawn; None: no CutMix.
        image_size: Side of a view in pixels, for the CutMix boxes.
        factor: Patches along a side of an image, which are shuffled; 1: no patch shuffling.
        colour_noise: Strengths of colour jitter and lighting noise (`colours.random_colours`); None: neither.

    Returns:
        The views of the epoch.

    Raises:
        DDBenchError: `scale` does not satisfy 0 < low <= high <= 1.

    Example:
        >>> views = epoch_views(3, torch.tensor([64, 64]), seed=0, epoch=0, batch_size=2)
        >>> sorted(views.order.tolist()), views.boxes.shape, views.batches
        ([0, 1, 2], torch.Size([3, 4]), (slice(0, 3, None),))
    """
    order = torch.randperm(n, generator=seeds.generator("views", seed, epoch, "order"))
    boxes = random_boxes(sizes.expand(n, 2)[order], scale, generator=seeds.generator("views", seed, epoch, "crop"))
    flips = torch.rand(n, generator=seeds.generator("views", seed, epoch, "flip")) < 0.5
    batches = batch_slices(n, batch_size)
    mixes = () if cutmix_alpha is None else _mixes(batches, cutmix_alpha, image_size, seed, epoch)
    places = None if factor == 1 else random_places(n, factor, seeds.generator("views", seed, epoch, "patches"))
    colours = (
        None
        if colour_noise is None
        else random_colours(n, *colour_noise, seeds.generator("views", seed, epoch, "colours"))
    )
    return EpochViews(order, boxes, flips, batches, mixes, places, colours)


def _mixes(batches: tuple[slice, ...], alpha: float, size: int, seed: int, epoch: int) -> tuple[Mix, ...]:
    partners = seeds.generator("views", seed, epoch, "partner")
    # NumPy, because PyTorch's Beta distribution takes no generator.
    draws = np.random.default_rng(seeds.derive("views", seed, epoch, "mix"))
    mixes = []
    for batch in batches:
        box = cutmix_box(size, float(draws.beta(alpha, alpha)), int(draws.integers(size)), int(draws.integers(size)))
        partner = torch.randperm(batch.stop - batch.start, generator=partners)
        mixes.append(Mix(partner, box, kept_share(box, size)))
    return tuple(mixes)
