"""Differentiable siamese augmentation (DSA): one drawn operation, applied alike to real and synthetic images.

Source: Zhao and Bilen, Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021, and its released code,
which defines the ranges. Images are augmented in normalised space, so pixels outside an image, or cut out of it, are 0,
the mean colour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ddbench.api.settings import operations_of
from ddbench.core.errors import DDBenchError

BRIGHTNESS = 1.0
SATURATION = 2.0
CONTRAST = 0.5
CROP_PAD = 0.125
CUTOUT = 0.5
FLIP = 0.5
ROTATE = math.radians(15)
SCALE = 1.2


@dataclass(frozen=True)
class Augmentation:
    """One drawn operation and its parameters.

    The columns of `parameters` depend on the operation:

    - color: the added brightness, in [-0.5, 0.5]; the factor on the distance from the pixel's mean over channels
      (saturation), in [0, 2]; the factor on the distance from the image's mean (contrast), in [0.5, 1.5]
    - crop: downward and rightward shift of the shown region in pixels, whole numbers of at most an eighth of the side
      in either direction
    - cutout: row and column of the middle of a square of half the side, whole numbers from 0 to the side
    - flip: 1 if the image is flipped left-right (probability 1/2), else 0
    - rotate: the angle in radians, at most 15 degrees in either direction
    - scale: height and width of the shown region in units of the side, in [1 / 1.2, 1.2]; above 1 the image shrinks

    Attributes:
        operation: Name of the operation.
        parameters: float64 [count, p] on the CPU, one row per image. A single row applies to every image of any batch.
    """

    operation: str
    parameters: Tensor


def draw_augmentation(strategy: str, size: int, generator: torch.Generator, count: int = 1) -> Augmentation:
    """Draws one operation of a strategy and its parameters.

    Every operation of the strategy has the same probability, and all parameters are uniform.

    Args:
        strategy: Operations joined by underscores, e.g. "color_crop_cutout_flip_scale_rotate".
        size: Side of the square images in pixels.
        generator: Source of the random draws.
        count: Number of parameter rows. 1 is the siamese mode: all images of all batches share the parameters.

    Returns:
        The operation with its parameters.

    Raises:
        DDBenchError: `strategy` names an unknown operation.

    Example:
        >>> augmentation = draw_augmentation("crop", 32, torch.Generator().manual_seed(0))
        >>> augmentation.operation, augmentation.parameters.shape
        ('crop', torch.Size([1, 2]))
    """
    operations = operations_of(strategy)
    operation = operations[int(torch.randint(len(operations), (), generator=generator))]

    def uniform(*ranges: tuple[float, float]) -> Tensor:
        low, high = torch.tensor(ranges, dtype=torch.float64).unbind(1)
        return low + (high - low) * torch.rand(count, len(ranges), dtype=torch.float64, generator=generator)

    def integers(low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, (count, 2), generator=generator).double()

    if operation == "color":
        parameters = uniform((-BRIGHTNESS / 2, BRIGHTNESS / 2), (0, SATURATION), (CONTRAST, CONTRAST + 1))
    elif operation == "crop":
        shift = int(size * CROP_PAD + 0.5)
        parameters = integers(-shift, shift)
    elif operation == "cutout":
        # As in the released code: for an odd side the middle of the square is a pixel, for an even side it is between
        # two.
        parameters = integers(0, size - _cutout_side(size) % 2)
    elif operation == "flip":
        parameters = (uniform((0, 1)) < FLIP).double()
    elif operation == "rotate":
        parameters = uniform((-ROTATE, ROTATE))
    else:
        parameters = uniform((1 / SCALE, SCALE), (1 / SCALE, SCALE))
    return Augmentation(operation, parameters)


def augment(images: Tensor, augmentation: Augmentation) -> Tensor:
    """Applies a drawn augmentation to a batch.

    Args:
        images: Normalised float images [B, 3, S, S].
        augmentation: Drawn for B images, or for one (then applied to all).

    Returns:
        Augmented images of the same shape, dtype and device; differentiable in `images`.

    Raises:
        DDBenchError: The augmentation was drawn for another number of images.

    Example:
        >>> image = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2)
        >>> augment(image, Augmentation("flip", torch.ones(1, 1, dtype=torch.float64)))
        tensor([[[[2., 1.],
                  [4., 3.]]]])
    """
    count = len(augmentation.parameters)
    if count not in (1, len(images)):
        raise DDBenchError(f"an augmentation drawn for {count} images cannot be applied to {len(images)}")
    columns = augmentation.parameters.to(images.device, images.dtype).unbind(1)
    first, last = columns[0], columns[-1]
    one, zero = torch.ones_like(first), torch.zeros_like(first)
    match augmentation.operation:
        case "color":
            return _color(images, *(column[:, None, None, None] for column in columns))
        case "cutout":
            return images * _outside(first, last, images.shape[-1])
        case "crop":
            entries = (one, zero, first, zero, one, last)
        case "flip":
            entries = (one, zero, zero, zero, 1 - 2 * first, zero)
        case "rotate":
            entries = (first.cos(), -first.sin(), zero, first.sin(), first.cos(), zero)
        case _:
            entries = (first, zero, zero, zero, last, zero)
    return _sample(images, torch.stack(entries, 1).view(-1, 2, 3))


def _color(images: Tensor, added: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Applies brightness, then saturation, then contrast, each to the previous result (order of the released code)."""
    images = images + added
    grey = images.mean(1, keepdim=True)
    images = grey + saturation * (images - grey)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + contrast * (images - mean)


def _cutout_side(size: int) -> int:
    return int(size * CUTOUT + 0.5)


def _outside(row: Tensor, column: Tensor, size: int) -> Tensor:
    """Returns [count, 1, size, size]: 0 inside the square about (row, column), cut at the borders, else 1."""
    side = _cutout_side(size)
    pixels = torch.arange(size, device=row.device, dtype=row.dtype)
    low, left = (middle[:, None] - side // 2 for middle in (row, column))
    rows, columns = ((pixels >= start) & (pixels < start + side) for start in (low, left))
    return (~(rows[:, :, None] & columns[:, None, :]))[:, None].to(row.dtype)


def _sample(images: Tensor, maps: Tensor) -> Tensor:
    """Resamples images [B, 3, H, W] through affine maps of pixel positions: bilinear, 0 outside.

    `maps` [count, 2, 3] take (row, column, 1) of an output pixel, from the image centre, to the position that is read.
    Whole positions are read exactly. Gathers the pixels by index, because the gradient of grid_sample has no
    deterministic kernel on every device.
    """
    height, width = images.shape[-2:]
    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
    row = torch.arange(height, device=images.device, dtype=images.dtype)[:, None] - middle_row
    column = torch.arange(width, device=images.device, dtype=images.dtype) - middle_column
    along, across, shift = maps[..., None, None].unbind(2)  # both have the shape [count, 2, 1, 1]
    rows, columns = (along * row + across * column + shift).unbind(1)
    rows, columns = rows + middle_row, columns + middle_column
    flat = images.flatten(2)
    sampled = torch.zeros_like(flat)
    for above in (rows.floor(), rows.floor() + 1):
        for left in (columns.floor(), columns.floor() + 1):
            inside = (above >= 0) & (above < height) & (left >= 0) & (left < width)
            share = inside * (1 - (rows - above).abs()) * (1 - (columns - left).abs())
            position = above.clamp(0, height - 1) * width + left.clamp(0, width - 1)
            pixels = torch.take_along_dim(flat, position.long().flatten(1)[:, None], 2)
            sampled = sampled + share.flatten(1)[:, None] * pixels
    return sampled.view(images.shape)
