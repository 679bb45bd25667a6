"""Random-resized-crops and colour normalisation of image batches, on the device of the images.

A crop is two small matrices: the separable antialiased bilinear resize of a box is `rows @ image @ columns.T`. One
batched matrix product crops a whole batch with a different box per image. It is differentiable and deterministic on
every device.
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
    """Draws boxes of random-resized-crops by torchvision's rule.

    Takes the first of ten drawn boxes that fits the image, else the largest centred box within the range of aspect
    ratios. Row b uses the b-th block of the generator's stream, so a longer batch begins with the boxes of a shorter
    one. Source: torchvision `RandomResizedCrop`, vectorised, with other random draws.

    Args:
        sizes: Height and width of each image in pixels, int64 [B, 2].
        scale: Range of box area / image area, within (0, 1].
        ratio: Range of width / height.
        generator: Source of the random draws.

    Returns:
        Top, left, height and width of each box in pixels, int64 [B, 4], inside the image.

    Raises:
        DDBenchError: `scale` does not satisfy 0 < low <= high <= 1.

    Example:
        >>> sizes = torch.tensor([[64, 48]])
        >>> random_boxes(sizes, scale=(1.0, 1.0), generator=torch.Generator().manual_seed(0))
        tensor([[ 0,  0, 64, 48]])
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
    any_fits = fits.any(1)
    centre_height = torch.minimum(height, (width / ratio[0]).round())
    centre_width = torch.minimum(width, (height * ratio[1]).round())
    box_height = torch.where(any_fits, box_height.gather(1, first).squeeze(1), centre_height)
    box_width = torch.where(any_fits, box_width.gather(1, first).squeeze(1), centre_width)

    top_room, left_room = height - box_height, width - box_width
    top = torch.where(any_fits, (draws[:, -2] * (top_room + 1)).floor(), (top_room / 2).floor())
    left = torch.where(any_fits, (draws[:, -1] * (left_room + 1)).floor(), (left_room / 2).floor())
    return torch.stack([top, left, box_height, box_width], 1).long()


def _resize_matrix(start: Tensor, length: Tensor, pixels: int, size: int, dtype: torch.dtype) -> Tensor:
    """Returns [B, size, pixels]: row i is the triangle filter of output pixel i, cut at the edges of the box, sum 1."""
    start, length = start.to(dtype)[:, None, None], length.to(dtype)[:, None, None]
    step = length / size
    centres = (torch.arange(size, device=start.device, dtype=dtype)[:, None] + 0.5) * step
    positions = torch.arange(pixels, device=start.device, dtype=dtype) + 0.5 - start
    weights = (1 - (positions - centres).abs() / step.clamp(min=1)).clamp(min=0)
    weights = weights * ((positions > 0) & (positions < length))
    return weights / weights.sum(-1, keepdim=True)


def crop_resize(images: Tensor, boxes: Tensor, size: int, flips: Tensor | None = None) -> Tensor:
    """Crops a box of each image, resizes it to a square and flips it.

    The resize is bilinear and antialiased. The numbers equal those of torchvision's `resized_crop(antialias=True)` on
    tensors up to rounding.

    Args:
        images: Float images [B, 3, H, W], on any device.
        boxes: Top, left, height and width of the box of each image, int [B, 4], or one box [4] for all; inside the
            image.
        size: Side of the output in pixels.
        flips: Which images to flip left-right, bool [B]; None: no flips.

    Returns:
        Images [B, 3, size, size] in the dtype of the input; autocast does not change it. Differentiable in `images`.

    Raises:
        DDBenchError: `boxes` has another shape, or `images` is not floating-point.

    Example:
        >>> image = torch.arange(16.0).view(1, 1, 4, 4)
        >>> crop_resize(image, torch.tensor([0, 0, 2, 4]), 2)
        tensor([[[[0.7143, 2.2857],
                  [4.7143, 6.2857]]]])
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
    """Converts pixels to the input space of networks: (pixels - mean) / std per channel.

    Args:
        pixels: Images [B, 3, H, W]: uint8 in 0..255, or float in [0, 1].
        mean: Channel means [3], in units of [0, 1]. Move them to the device of the pixels once: a host-to-device copy
            in each call would synchronise with the device.
        std: Channel standard deviations [3], in the same units.

    Returns:
        Normalised images, float32 [B, 3, H, W].

    Example:
        >>> pixels = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
        >>> normalise(pixels, torch.tensor([0.5]), torch.tensor([0.25])).flatten()
        tensor([-2.,  2.])
    """
    values = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
    return (values - _channels(mean, pixels)) / _channels(std, pixels)


def denormalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Inverts `normalise`.

    Args:
        images: Normalised images [B, 3, H, W].
        mean: Channel means [3], in units of [0, 1].
        std: Channel standard deviations [3], in the same units.

    Returns:
        Pixel values in units of [0, 1], not clamped, float32 [B, 3, H, W].

    Example:
        >>> denormalise(torch.tensor([-2.0, 2.0]).view(1, 1, 1, 2), torch.tensor([0.5]), torch.tensor([0.25])).flatten()
        tensor([0., 1.])
    """
    return images.float() * _channels(std, images) + _channels(mean, images)
