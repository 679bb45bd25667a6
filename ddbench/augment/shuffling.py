"""Patch shuffling: permutes the rows and the columns of the grid of patches of an image."""

from __future__ import annotations

import torch
from torch import Tensor

from ddbench.core.errors import DDBenchError


def random_places(count: int, factor: int, generator: torch.Generator) -> Tensor:
    """Draws where the rows and the columns of the patches of each image move.

    Args:
        count: The number of images.
        factor: The number of patches along a side of an image.
        generator: Source of the random draws.

    Returns:
        The new place of each row (first) and each column (second) of patches, int64 [count, 2, factor]. Every
        permutation has the same probability.

    Example:
        >>> random_places(1, 3, torch.Generator().manual_seed(0)).sort(-1).values
        tensor([[[0, 1, 2],
                 [0, 1, 2]]])
    """
    return torch.rand(count, 2, factor, dtype=torch.float64, generator=generator).argsort(-1)


def shuffle_patches(images: Tensor, places: Tensor) -> Tensor:
    """Permutes the rows and the columns of the grid of patches of each image.

    A patch keeps the other patches of its row and of its column, so a grid of 2 x 2 patches has 4 arrangements. If the
    number of patches does not divide the side, the last row and the last column of patches are larger. Source: RDED
    (`LINs-lab/RDED:validation/utils.py`, `ShufflePatches`).

    Args:
        images: Images [B, C, H, W].
        places: The new places of the rows and the columns of patches, int64 [B, 2, factor], from `random_places`.

    Returns:
        The images with moved patches; `images` is not changed.

    Raises:
        DDBenchError: There are more patches along a side than pixels.

    Example:
        >>> images = torch.arange(4.0).view(1, 1, 2, 2)
        >>> shuffle_patches(images, torch.tensor([[[0, 1], [1, 0]]]))[0, 0]
        tensor([[1., 0.],
                [3., 2.]])
    """
    rows, columns = (
        _sources(places[:, axis], pixels) for axis, pixels in enumerate((images.shape[2], images.shape[3]))
    )
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return images.transpose(0, 1)[:, batch, rows[:, :, None], columns[:, None, :]].transpose(0, 1)


def _sources(places: Tensor, pixels: int) -> Tensor:
    """Returns the pixel that moves to each pixel of a side, int64 [B, pixels]."""
    factor = places.shape[1]
    if factor > pixels:
        raise DDBenchError(f"{factor} patches along a side are more than its {pixels} pixels: lower the factor")
    patch = (torch.arange(pixels, device=places.device) // (pixels // factor)).clamp(max=factor - 1)
    return places[:, patch].argsort(dim=1, stable=True)
