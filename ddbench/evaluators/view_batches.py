"""Batches of the augmented views that a student is trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ddbench.augment import crops, mixing
from ddbench.augment.views import EpochViews
from ddbench.training.batches import to_device

if TYPE_CHECKING:
    from ddbench.api.context import EvaluateTask


@dataclass(frozen=True)
class ViewBatch:
    """One batch of augmented views on the device, after CutMix.

    Attributes:
        positions: The positions of the views in the epoch.
        global_size: The number of views of the batch over all processes.
        images: Normalised views, float32 [B, 3, S, S].
        rows: The row in the distilled set of each view's image, int64 [B].
        pasted: The row of the image that CutMix pastes from, int64 [B].
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
    task: EvaluateTask, epoch: EpochViews, shard: Callable[[slice], slice] = _whole_batch
) -> Iterator[ViewBatch]:
    """Yields the batches of one epoch over the distilled images of a task, in order.

    Args:
        task: The task.
        epoch: The views of the epoch.
        shard: Maps the positions of a batch to those that this process trains on (`Strategy.shard`).
    """
    device, size = task.device, task.dataset.info.image_size
    mean, std = task.dataset.mean.to(device), task.dataset.std.to(device)
    order, boxes, flips = (to_device(part, device) for part in (epoch.order, epoch.boxes, epoch.flips))

    def views(positions: slice | Tensor) -> Tensor:
        on_device = to_device(positions, device) if isinstance(positions, Tensor) else positions
        pixels = to_device(task.images[epoch.order[positions]], device).float() / 255
        return crops.normalise(crops.crop_resize(pixels, boxes[on_device], size, flips[on_device]), mean, std)

    for number, batch in enumerate(epoch.batches):
        part = shard(batch)
        images, rows = views(part), order[part]
        pasted, share = rows, 1.0
        if epoch.mixes:
            mix = epoch.mixes[number]
            share = mix.share
            if part == batch:
                partner = to_device(mix.partner, device)
                images, pasted = mixing.cutmix(images, partner, mix.box), rows[partner]
            else:  # the partner of a view can be in the shard of another process
                partner = batch.start + mix.partner[part.start - batch.start : part.stop - batch.start]
                images, pasted = mixing.paste(images, views(partner), mix.box), order[to_device(partner, device)]
        yield ViewBatch(part, batch.stop - batch.start, images, rows, pasted, share)
