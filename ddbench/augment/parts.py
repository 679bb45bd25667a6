"""The parts of images: several small images in one, and the decoder that enlarges them again."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def enlarge_parts(images: Tensor, factor: int) -> Tensor:
    """Cuts each image into factor x factor parts, and enlarges each part to the size of the image (bilinear).

    It is differentiable. Source: IDM (`uitrbn/IDM:dc_utils.py`, `number_sign_augment`), and IDC (Kim et al., Dataset
    Condensation via Efficient Synthetic-Data Parameterization, ICML 2022).

    Args:
        images: Float [B, C, S, S].
        factor: The number of parts along a side. It divides S.

    Returns:
        Float [B * factor^2, C, S, S]. The parts of an image follow each other, row by row.

    Example:
        >>> enlarge_parts(torch.arange(4.0).view(1, 1, 2, 2), 2)[:, 0, 0]
        tensor([[0., 0.],
                [1., 1.],
                [2., 2.],
                [3., 3.]])
    """
    count, channels, size, _ = images.shape
    side = size // factor
    grid = images.reshape(count, channels, factor, side, factor, side)
    parts = grid.permute(0, 2, 4, 1, 3, 5).reshape(count * factor**2, channels, side, side)
    # Two products, because the gradient of a bilinear interpolation has no deterministic kernel on CUDA.
    units = torch.eye(side, dtype=images.dtype, device=images.device)
    weights = functional.interpolate(units[None], size=size, mode="linear", align_corners=False)[0]
    return weights.T @ parts @ weights


def tile_parts(images: Tensor, factor: int) -> Tensor:
    """Reduces images to 1 / factor of their side, and joins each factor x factor of them to one image.

    A pixel of the result is the mean of factor x factor pixels. For factor 2, this is the initial image of IDM
    (`uitrbn/IDM:dc_utils.py`, `downscale`).

    Args:
        images: Float [B * factor^2, C, S, S], in the order of the result of `enlarge_parts`.
        factor: The number of parts along a side. It divides S.

    Returns:
        Float [B, C, S, S].

    Example:
        >>> tile_parts(torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 2, 2), 2)[0, 0]
        tensor([[0., 1.],
                [2., 3.]])
    """
    _, channels, size, _ = images.shape
    side = size // factor
    parts = functional.avg_pool2d(images, factor).reshape(-1, factor, factor, channels, side, side)
    return parts.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, size, size)
