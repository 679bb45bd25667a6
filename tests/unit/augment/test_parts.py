"""The parts of images: enlarged as by hand in float64, with the gradient of the brute-force matrix; and joined."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ddbench.augment.parts import enlarge_parts, tile_parts
from ddbench.core import seeds


def sources(size: int, side: int) -> list[list[float]]:
    """The weights of the `side` pixels of a part in each of `size` pixels: linear between pixel centres."""
    rows = []
    for pixel in range(size):
        place = min(max((pixel + 0.5) * side / size - 0.5, 0), side - 1)
        low = min(int(place), max(side - 2, 0))
        row = [0.0] * side
        row[low] += 1 - (place - low)
        if side > 1:
            row[low + 1] += place - low
        rows.append(row)
    return rows


def by_hand(image: Tensor, factor: int) -> Tensor:
    """The enlarged parts of one channel [S, S], pixel by pixel."""
    size = len(image)
    side = size // factor
    weights, parts = sources(size, side), []
    for top in range(0, size, side):
        for left in range(0, size, side):
            part = torch.zeros(size, size, dtype=torch.float64)
            for y in range(size):
                for x in range(size):
                    for i in range(side):
                        for j in range(side):
                            part[y, x] += weights[y][i] * weights[x][j] * image[top + i, left + j]
            parts.append(part)
    return torch.stack(parts)


@pytest.mark.parametrize(("size", "factor"), [(4, 2), (6, 2), (6, 3), (4, 4), (4, 1)])
def test_parts_are_enlarged_as_by_hand(size: int, factor: int) -> None:
    draws = seeds.generator("parts", size, factor)
    images = torch.randn(2, 2, size, size, dtype=torch.float64, generator=draws)
    expected = torch.stack([by_hand(channel, factor) for image in images for channel in image])
    expected = expected.view(2, 2, factor**2, size, size).transpose(1, 2).reshape(-1, 2, size, size)
    torch.testing.assert_close(enlarge_parts(images, factor), expected, rtol=1e-12, atol=1e-12)


def test_the_gradient_is_that_of_the_matrix() -> None:
    """The map is linear: its gradient is the transposed matrix, whose columns are the images of the unit images."""
    units = torch.eye(16, dtype=torch.float64).view(16, 4, 4)
    matrix = torch.stack([by_hand(unit, 2).flatten() for unit in units], 1)
    image = torch.randn(1, 1, 4, 4, dtype=torch.float64, generator=seeds.generator("image"), requires_grad=True)
    direction = torch.randn(4 * 16, dtype=torch.float64, generator=seeds.generator("direction"))
    (gradient,) = torch.autograd.grad(enlarge_parts(image, 2).flatten() @ direction, image)
    torch.testing.assert_close(gradient.flatten(), matrix.T @ direction, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_tiled_images_are_means_at_their_place(factor: int) -> None:
    images = torch.randn(2 * factor**2, 3, 6, 6, dtype=torch.float64, generator=seeds.generator("tiles"))
    tiled, side = tile_parts(images, factor), 6 // factor
    assert tiled.shape == (2, 3, 6, 6)
    for number, image in enumerate(images):
        place = number % factor**2
        top, left = place // factor * side, place % factor * side
        tile = tiled[number // factor**2, :, top : top + side, left : left + side]
        for y in range(side):
            for x in range(side):
                block = image[:, factor * y : factor * (y + 1), factor * x : factor * (x + 1)]
                torch.testing.assert_close(tile[:, y, x], block.mean((1, 2)), rtol=1e-12, atol=1e-12)
