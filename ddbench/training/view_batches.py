"""Batches of the augmented views that a network is trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddbench.augment import crops, mixing
from ddbench.augment.colours import shift_colours
from ddbench.augment.shuffling import shuffle_patches
from ddbench.augment.views import EpochViews
from ddbench.training.batches import prefetch, to_device

if TYPE_CHECKING:
    from ddbench.api.images import RealData


@dataclass(frozen=True)
class ViewBatch:
    """One batch of augmented views on the device, after CutMix.

    Attributes:
        positions: The positions of the views in the epoch.
        global_size: The number of views of the batch over all processes.
        images: Normalised views, float32 [B, 3, S, S].
        rows: The number of each view's image among all images, int64 [B].
        pasted: The number of the image that CutMix pastes from, int64 [B].
        share: lambda of CutMix: the fraction of a view's area that shows the image `rows`.
    """

    positions: slice
    global_size: int
    images: Tensor
    rows: Tensor
    pasted: Tensor
    share: float


def _whole_batch(batch: slice) -> slice:
    return batch


def view_batches(
    read: Callable[[Tensor], Tensor],
    dataset: RealData,
    epoch: EpochViews,
    device: torch.device,
    shard: Callable[[slice], slice] = _whole_batch,
    size: int | None = None,
) -> Iterator[ViewBatch]:
    """Yields the batches of one epoch over some images, in order.

    Args:
        read: Returns the images of these numbers, uint8 [n, 3, H, W].
        dataset: The dataset, for the normalisation of views.
        epoch: The views of the epoch.
        device: The device of the views.
        shard: Maps the positions of a batch to those that this process trains on (`Strategy.shard`).
        size: Side of a view in pixels; None: that of the dataset's images.
    """
    size = size or dataset.info.image_size
    mean, std = dataset.mean.to(device), dataset.std.to(device)
    order, boxes, flips = (to_device(part, device) for part in (epoch.order, epoch.boxes, epoch.flips))
    places = None if epoch.places is None else to_device(epoch.places, device)
    colours = None if epoch.colours is None else epoch.colours.to(device)

    def views(pixels: Tensor, positions: slice | Tensor) -> Tensor:
        images = to_device(pixels, device).float() / 255
        if places is not None:
            images = shuffle_patches(images, places[positions])
        images = crops.crop_resize(images, boxes[positions], size, flips[positions])
        if colours is not None:
            images = shift_colours(images, colours[positions])
        return crops.normalise(images, mean, std)

    parts = [shard(batch) for batch in epoch.batches]
    with closing(prefetch((read(epoch.order[part]) for part in parts), device)) as loaded:
        for number, (batch, part, pixels) in enumerate(zip(epoch.batches, parts, loaded, strict=True)):
            images, rows = views(pixels, part), order[part]
            pasted, share = rows, 1.0
            if epoch.mixes:
                mix = epoch.mixes[number]
                share = mix.share
                if part == batch:
                    partner = to_device(mix.partner, device)
                    images, pasted = mixing.cutmix(images, partner, mix.box), rows[partner]
                else:  # the partner of a view can be in the shard of another process
                    partner = batch.start + mix.partner[part.start - batch.start : part.stop - batch.start]
                    others = views(read(epoch.order[partner]), to_device(partner, device))
                    images, pasted = mixing.paste(images, others, mix.box), order[to_device(partner, device)]
            yield ViewBatch(part, batch.stop - batch.start, images, rows, pasted, share)
