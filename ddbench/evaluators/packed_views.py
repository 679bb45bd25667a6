"""The views of one epoch as tensors of the smallest sufficient dtypes, for storage."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ddbench.augment import mixing
from ddbench.augment.mixing import Mix
from ddbench.augment.views import EpochViews


def pack_views(epoch: EpochViews) -> dict[str, Tensor]:
    """Converts views to tensors. The sides of images must be below 2**15 pixels.

    Args:
        epoch: The views of n images, without colour jitter.

    Returns:
        `order` int32 [n], `boxes` int16 [n, 4] and `flips` bool [n]; with CutMix also `partners` int32 [n] and
        `mix_boxes` int16 [batches, 4]; with patch shuffling also `places` int16 [n, 2, factor].
    """
    assert epoch.colours is None, "colour jitter is for class labels, which are not stored with their views"
    packed = {"order": epoch.order.int(), "boxes": epoch.boxes.short(), "flips": epoch.flips}
    if epoch.mixes:
        packed["partners"] = torch.cat([mix.partner for mix in epoch.mixes]).int()
        packed["mix_boxes"] = torch.tensor([mix.box for mix in epoch.mixes], dtype=torch.int16)
    if epoch.places is not None:
        packed["places"] = epoch.places.short()
    return packed


def unpack_views(packed: Mapping[str, Tensor], batches: tuple[slice, ...], size: int) -> EpochViews:
    """Converts the tensors of `pack_views` back to views.

    Args:
        packed: The tensors.
        batches: The batches of the epoch.
        size: The side of a view in pixels.

    Example:
        >>> from ddbench.augment.views import epoch_views
        >>> epoch = epoch_views(4, torch.tensor([8, 8]), seed=0, epoch=0, batch_size=2, cutmix_alpha=1.0, image_size=8)
        >>> again = unpack_views(pack_views(epoch), epoch.batches, 8)
        >>> torch.equal(again.boxes, epoch.boxes), again.mixes[0].box == epoch.mixes[0].box
        (True, True)
    """
    mixes: tuple[Mix, ...] = ()
    if "partners" in packed:
        boxes: list[mixing.Box] = [tuple(box) for box in packed["mix_boxes"].tolist()]
        mixes = tuple(
            Mix(packed["partners"][part].long(), box, mixing.kept_share(box, size))
            for part, box in zip(batches, boxes, strict=True)
        )
    places = packed["places"].long() if "places" in packed else None
    return EpochViews(packed["order"].long(), packed["boxes"].long(), packed["flips"].clone(), batches, mixes, places)


def num_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Returns the total size of tensors in bytes.

    Example:
        >>> num_bytes({"flips": torch.zeros(5, dtype=torch.bool), "order": torch.zeros(5, dtype=torch.int32)})
        25
    """
    return sum(tensor.nbytes for tensor in tensors.values())
