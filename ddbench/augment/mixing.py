"""CutMix of image batches: the box, its area, and the pasting (Yun et al. 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Mix:
    """The CutMix draw of one batch.

    Attributes:
        partner: For each image, the position in the batch of the image pasted onto it, int64 [B].
        box: Top, left, height and width of the pasted region, in pixels.
        share: lambda of CutMix: the fraction of the image area that is kept, 0 to 1.
    """

    partner: Tensor
    box: Box
    share: float


def cutmix_box(size: int, kept: float, row: int, column: int) -> Box:
    """Computes the box that CutMix pastes.

    The box has side size * sqrt(1 - kept), is centred on (`row`, `column`) and is cut at the image borders. Source:
    CutMix (Yun et al. 2019), as in the released FKD relabel code.

    Args:
        size: Side of the square images in pixels.
        kept: lambda of CutMix before the box is cut at the borders, in [0, 1]: the fraction of the area to keep. CutMix
            draws it from Beta(alpha, alpha).
        row: Row of the centre.
        column: Column of the centre.

    Returns:
        Top, left, height and width in pixels.

    Example:
        >>> cutmix_box(64, 0.75, row=0, column=32)
        (0, 16, 16, 32)
    """
    half = int(size * math.sqrt(1 - kept)) // 2
    top, left = max(row - half, 0), max(column - half, 0)
    return top, left, min(row + half, size) - top, min(column + half, size) - left


def kept_share(box: Box, size: int) -> float:
    """Computes lambda of CutMix from its box: the fraction of the image area that is kept, 1 - box area / image area.

    Args:
        box: Top, left, height and width of the pasted region, in pixels.
        size: Side of the square images in pixels.

    Returns:
        lambda, 0 to 1.

    Example:
        >>> kept_share((0, 16, 16, 32), 64)
        0.875
    """
    return 1 - box[2] * box[3] / size**2


def cutmix(images: Tensor, partner: Tensor, box: Box) -> Tensor:
    """Applies CutMix within a batch: pastes the box of each image's partner.

    Args:
        images: Images [B, 3, S, S].
        partner: Position in the batch of the image pasted onto each image, int64 [B].
        box: Top, left, height and width of the pasted region, in pixels.

    Returns:
        The mixed images; `images` is not changed.

    Example:
        >>> import torch
        >>> images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 1, 2)
        >>> cutmix(images, torch.tensor([1, 0]), (0, 1, 1, 1)).flatten(1)
        tensor([[0., 1.],
                [1., 0.]])
    """
    mixed, region = images.clone(), _region(box)
    mixed[region] = images[region][partner]
    return mixed


def paste(images: Tensor, others: Tensor, box: Box) -> Tensor:
    """Applies CutMix between two batches: pastes the box of `others[b]` onto image b.

    Args:
        images: Images [B, 3, S, S].
        others: Images to paste from, of the same shape.
        box: Top, left, height and width of the pasted region, in pixels.

    Returns:
        The mixed images; the inputs are not changed.

    Example:
        >>> import torch
        >>> paste(torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2), (0, 1, 1, 1)).flatten()
        tensor([0., 1.])
    """
    mixed, region = images.clone(), _region(box)
    mixed[region] = others[region]
    return mixed


def _region(box: Box) -> tuple[slice, slice, slice, slice]:
    top, left, height, width = box
    return slice(None), slice(None), slice(top, top + height), slice(left, left + width)
