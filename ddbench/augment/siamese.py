"""Differentiable siamese augmentation: one drawn operation, done in the same way to real and synthetic images.

Source: Zhao and Bilen, Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021, and its released
code, whose ranges these are. Images are augmented as networks see them, in normalised space: what lies outside
of an image, or is cut out of it, is 0, the mean colour. These numbers belong to `versions.VIEWS`.
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
    """One drawn operation and its parameters, on the CPU: `parameters` float64 [count, p], a row an image.

    A single row holds for every image of any batch. The columns, by `operation`:

    - color: what is added, in [-0.5, 0.5]; the factor of the distance from the pixel's mean over channels, in [0, 2];
      the factor of the distance from the image's mean, in [0.5, 1.5]
    - crop: rows and columns, whole numbers up to an eighth of the side, by which what is shown lies lower and further
      right in the image
    - cutout: row and column of the middle of a square of half the side, whole numbers from 0 to the side
    - flip: 1 where left and right are exchanged, with probability 1/2, else 0
    - rotate: the angle in radians, up to 15 degrees either way
    - scale: height and width of what is shown in units of the side, in [1 / 1.2, 1.2]; above 1 the image shrinks
    """

    operation: str
    parameters: Tensor


def draw_augmentation(strategy: str, size: int, generator: torch.Generator, count: int = 1) -> Augmentation:
    """Draws one operation of `strategy`, each as likely, and its parameters for `count` images of side `size`.

    `strategy` joins operations by underscores, e.g. "color_crop_cutout_flip_scale_rotate". `count` = 1 is the
    siamese mode: the same parameters for every image of every batch. All draws are uniform. Raises DDBenchError for
    an unknown operation.
    """
    operations = operations_of(strategy)
    operation = operations[int(torch.randint(len(operations), (), generator=generator))]

    def uniform(*ranges: tuple[float, float]) -> Tensor:
        low, high = torch.tensor(ranges, dtype=torch.float64).unbind(1)
        return low + (high - low) * torch.rand(count, len(ranges), dtype=torch.float64, generator=generator)

    def whole(low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, (count, 2), generator=generator).double()

    if operation == "color":
        parameters = uniform((-BRIGHTNESS / 2, BRIGHTNESS / 2), (0, SATURATION), (CONTRAST, CONTRAST + 1))
    elif operation == "crop":
        shift = int(size * CROP_PAD + 0.5)
        parameters = whole(-shift, shift)
    elif operation == "cutout":
        # As released: the middle of a square of odd side is a pixel, that of an even side lies between two.
        parameters = whole(0, size - _cutout_side(size) % 2)
    elif operation == "flip":
        parameters = (uniform((0, 1)) < FLIP).double()
    elif operation == "rotate":
        parameters = uniform((-ROTATE, ROTATE))
    else:
        parameters = uniform((1 / SCALE, SCALE), (1 / SCALE, SCALE))
    return Augmentation(operation, parameters)


def augment(images: Tensor, augmentation: Augmentation) -> Tensor:
    """Normalised float images [B, 3, S, S], augmented: the same shape, type and device, differentiable in `images`.

    Raises DDBenchError where the augmentation was drawn for another number of images, unless for one.
    """
    count = len(augmentation.parameters)
    if count not in (1, len(images)):
        raise DDBenchError(f"an augmentation drawn for {count} images cannot be done to {len(images)}")
    columns = augmentation.parameters.to(images.device, images.dtype).unbind(1)
    first, last = columns[0], columns[-1]
    one, none = torch.ones_like(first), torch.zeros_like(first)
    match augmentation.operation:
        case "color":
            return _color(images, *(column[:, None, None, None] for column in columns))
        case "cutout":
            return images * _outside(first, last, images.shape[-1])
        case "crop":
            entries = (one, none, first, none, one, last)
        case "flip":
            entries = (one, none, none, none, 1 - 2 * first, none)
        case "rotate":
            entries = (first.cos(), -first.sin(), none, first.sin(), first.cos(), none)
        case _:
            entries = (first, none, none, none, last, none)
    return _sample(images, torch.stack(entries, 1).view(-1, 2, 3))


def _color(images: Tensor, added: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Brightness, then saturation, then contrast, each about what the one before it left (order of the source)."""
    images = images + added
    grey = images.mean(1, keepdim=True)
    images = grey + saturation * (images - grey)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + contrast * (images - mean)


def _cutout_side(size: int) -> int:
    return int(size * CUTOUT + 0.5)


def _outside(row: Tensor, column: Tensor, size: int) -> Tensor:
    """[count, 1, size, size]: 0 inside the square about (row, column), cut at the borders, else 1."""
    side = _cutout_side(size)
    pixels = torch.arange(size, device=row.device, dtype=row.dtype)
    low, left = (middle[:, None] - side // 2 for middle in (row, column))
    rows, columns = ((pixels >= start) & (pixels < start + side) for start in (low, left))
    return (~(rows[:, :, None] & columns[:, None, :]))[:, None].to(row.dtype)


def _sample(images: Tensor, maps: Tensor) -> Tensor:
    """Images seen through an affine map of pixel positions, bilinear, 0 outside; [B, 3, H, W] as given.

    `maps` [count, 2, 3]: (row, column, 1) of an output pixel, from the image's centre, to where it is read. Whole
    positions are read exactly. Gathered pixel by pixel: unlike grid_sample's, the gradient has deterministic kernels
    on every device.
    """
    height, width = images.shape[-2:]
    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
    row = torch.arange(height, device=images.device, dtype=images.dtype)[:, None] - middle_row
    column = torch.arange(width, device=images.device, dtype=images.dtype) - middle_column
    along, across, shift = maps[..., None, None].unbind(2)  # [count, 2, 1, 1] each
    rows, columns = (along * row + across * column + shift).unbind(1)
    rows, columns = rows + middle_row, columns + middle_column
    flat = images.flatten(2)
    seen = torch.zeros_like(flat)
    for above in (rows.floor(), rows.floor() + 1):
        for left in (columns.floor(), columns.floor() + 1):
            inside = (above >= 0) & (above < height) & (left >= 0) & (left < width)
            share = inside * (1 - (rows - above).abs()) * (1 - (columns - left).abs())
            place = above.clamp(0, height - 1) * width + left.clamp(0, width - 1)
            pixels = torch.take_along_dim(flat, place.long().flatten(1)[:, None], 2)
            seen = seen + share.flatten(1)[:, None] * pixels
    return seen.view(images.shape)
