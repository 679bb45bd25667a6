"""Patch shuffling against cutting and joining strips of one image at a time."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ddbench.augment.shuffling import random_places, shuffle_patches
from ddbench.core.errors import DDBenchError


def moved_strips(image: np.ndarray, places: list[int]) -> np.ndarray:
    """Cuts an image [C, H, W] into vertical strips, the last one as wide as what is left, and joins them again."""
    factor, width = len(places), image.shape[2] // len(places)
    strips = [image[:, :, k * width : (k + 1) * width if k + 1 < factor else None] for k in range(factor)]
    return np.concatenate([strips[places.index(place)] for place in range(factor)], 2)


@pytest.mark.parametrize(("factor", "height", "width"), [(1, 4, 4), (2, 8, 8), (3, 10, 8), (4, 4, 11)])
def test_rows_and_columns_of_patches_move_as_when_strips_are_cut(factor: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(factor)
    images = torch.rand(5, 3, height, width, generator=generator)
    before = images.clone()
    places = random_places(5, factor, generator)
    shuffled = shuffle_patches(images, places)
    assert torch.equal(images, before)
    for image, place, actual in zip(images.numpy(), places.tolist(), shuffled, strict=True):
        columns = moved_strips(image, place[1])
        expected = moved_strips(columns.transpose(0, 2, 1), place[0]).transpose(0, 2, 1)
        assert np.array_equal(actual.numpy(), expected)


def test_every_permutation_has_the_same_probability() -> None:
    draws = random_places(12000, 3, torch.Generator().manual_seed(0))
    for axis in range(2):
        arrangements, counts = draws[:, axis].unique(dim=0, return_counts=True)
        assert len(arrangements) == 6
        assert bool(((counts - 2000).abs() < 5 * (12000 * 5 / 36) ** 0.5).all())
    both = draws.flatten(1).unique(dim=0)
    assert len(both) == 36  # rows and columns are independent


def test_more_patches_than_pixels_are_refused() -> None:
    images: Tensor = torch.zeros(1, 3, 8, 4)
    with pytest.raises(DDBenchError, match="5 patches along a side are more than its 4 pixels: lower the factor"):
        shuffle_patches(images, random_places(1, 5, torch.Generator()))
