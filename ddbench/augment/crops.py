"""Seeded batched augmentation on device: a view is a function of (seed, epoch, position in the permutation).

A crop is two small matrices: the separable antialiased bilinear resize of a box is `rows @ image @
columns.T`, one batched matrix product for a whole batch of different boxes, differentiable and deterministic
on any device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ddbench.core.errors import DDBenchError

CROP_SCALE = (0.08, 1.0)


CROP_RATIO = (3 / 4, 4 / 3)


CROP_DRAWS = 10


def random_boxes(
    sizes: Tensor,
    scale: tuple[float, float] = CROP_SCALE,
    ratio: tuple[float, float] = CROP_RATIO,
    *,
    generator: torch.Generator,
) -> Tensor:
    """Boxes of the random-resized-crop by torchvision's rule: the first of ten that fits, else the centre.

    `sizes` int64 [B, 2] (height, width, pixels), `scale` the range of the box's part of the area (0 to 1),
    `ratio` the range of width / height. Returns int64 [B, 4]: top, left, height, width, inside the image. Row
    b uses the b-th block of the generator's stream, so that a longer batch begins with the boxes of a shorter
    one. Source: torchvision `RandomResizedCrop`, vectorised. Raises DDBenchError for a scale outside 0 < low
    <= high <= 1.
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise DDBenchError(f"crop scale {scale} must satisfy 0 < low <= high <= 1")
    draws = torch.rand(len(sizes), 2 * CROP_DRAWS + 2, dtype=torch.float64, generator=generator)
    height, width = sizes.double().unbind(1)
    area = (height * width)[:, None] * (scale[0] + (scale[1] - scale[0]) * draws[:, :CROP_DRAWS])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * draws[:, CROP_DRAWS : 2 * CROP_DRAWS])
    box_width, box_height = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()

    fits = (box_width > 0) & (box_width <= width[:, None]) & (box_height > 0) & (box_height <= height[:, None])
    first = fits.int().argmax(1, keepdim=True)
    found = fits.any(1)
    centre_height = torch.minimum(height, (width / ratio[0]).round())
    centre_width = torch.minimum(width, (height * ratio[1]).round())
    box_height = torch.where(found, box_height.gather(1, first).squeeze(1), centre_height)
    box_width = torch.where(found, box_width.gather(1, first).squeeze(1), centre_width)

    top_room, left_room = height - box_height, width - box_width
    top = torch.where(found, (draws[:, -2] * (top_room + 1)).floor(), (top_room / 2).floor())
    left = torch.where(found, (draws[:, -1] * (left_room + 1)).floor(), (left_room / 2).floor())
    return torch.stack([top, left, box_height, box_width], 1).long()


def _resize_matrix(start: Tensor, length: Tensor, pixels: int, size: int, dtype: torch.dtype) -> Tensor:
    """[B, size, pixels]: row i is the triangle filter of output pixel i, cut at the box's edges, of sum 1."""
    start, length = start.to(dtype)[:, None, None], length.to(dtype)[:, None, None]
    step = length / size
    centres = (torch.arange(size, device=start.device, dtype=dtype)[:, None] + 0.5) * step
    positions = torch.arange(pixels, device=start.device, dtype=dtype) + 0.5 - start
    weights = (1 - (positions - centres).abs() / step.clamp(min=1)).clamp(min=0)
    weights = weights * ((positions > 0) & (positions < length))
    return weights / weights.sum(-1, keepdim=True)


def crop_resize(images: Tensor, boxes: Tensor, size: int, flips: Tensor | None = None) -> Tensor:
    """Crops a box of each image, resizes it to `size` x `size` (bilinear, antialiased), flips it where asked.

    `images` float [B, 3, H, W], `boxes` int [B, 4] (top, left, height, width, inside the image) or [4] for
    all, `flips` bool [B] (left-right) or None, on any device. Returns [B, 3, size, size] of the images'
    type, differentiable in `images`; always computed in that type, also under autocast. The same numbers as
    torchvision's `resized_crop(antialias=True)` on tensors up to rounding. Raises DDBenchError for boxes of
    another shape.
    """
    if boxes.shape not in ((4,), (len(images), 4)) or not images.is_floating_point():
        raise DDBenchError(
            f"crop_resize takes float images [B, 3, H, W] and boxes [B, 4] or [4]; "
            f"got {images.dtype} {tuple(images.shape)} and boxes {tuple(boxes.shape)}"
        )
    top, left, height, width = boxes.to(images.device, non_blocking=True).reshape(-1, 4).unbind(1)
    rows = _resize_matrix(top, height, images.shape[2], size, images.dtype)
    columns = _resize_matrix(left, width, images.shape[3], size, images.dtype)
    if flips is not None:
        flips = flips.to(images.device, non_blocking=True)
        columns = torch.where(flips[:, None, None], columns.flip(1), columns)
    with torch.autocast(device_type=images.device.type, enabled=False):
        return rows[:, None] @ (images @ columns[:, None].mT)


def _channels(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device, torch.float32)[:, None, None]


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """What networks see: (pixels - mean) / std per channel, float32 [B, 3, H, W].

    `pixels` uint8 in 0..255 or float in [0, 1]; `mean`, `std` [3] in units of [0, 1] (put them on the pixels'
    device once: a copy from the host waits for the device).
    """
    values = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
    return (values - _channels(mean, pixels)) / _channels(std, pixels)


def denormalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The inverse of `normalise`: float32 pixel values in units of [0, 1], not clamped."""
    return images.float() * _channels(std, images) + _channels(mean, images)
