"""Preview grids: the pixels shown are the pixels stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from ddbench.results.preview import GAP, preview


def draw(tmp_path: Path, images: Tensor, labels: Tensor, names: list[str]) -> npt.NDArray[np.uint8]:
    path = tmp_path / "new" / "preview.png"
    preview(images, labels, names, path, "title with $x_1$ and 中文")
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB"))


def contains(picture: npt.NDArray[np.uint8], tile: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Where the tile stands in the picture, pixel for pixel; fails if it does not."""
    windows = np.lib.stride_tricks.sliding_window_view(picture[..., 0], tile.shape[:2])
    for top, left in np.argwhere((windows[..., 0, 0] == tile[0, 0, 0]) & (windows[..., -1, -1] == tile[-1, -1, 0])):
        if np.array_equal(picture[top : top + tile.shape[0], left : left + tile.shape[1]], tile):
            return int(top), int(left)
    raise AssertionError("the image is not in the picture")


@pytest.mark.parametrize(("size", "factor"), [(8, 8), (28, 2), (64, 1), (96, 1)])
def test_small_images_stand_there_as_whole_squares(tmp_path: Path, size: int, factor: int) -> None:
    generator = torch.Generator().manual_seed(size)
    images = torch.randint(0, 256, (4, 3, size, size), generator=generator, dtype=torch.uint8)
    picture = draw(tmp_path, images, torch.tensor([1, 0, 1, 0]), ["cat", "dog"])
    tiles = [np.kron(image.permute(1, 2, 0).numpy(), np.ones((factor, factor, 1), np.uint8)) for image in images]
    places = [contains(picture, tile) for tile in tiles]
    pitch = size * factor + GAP
    # A row a class, in class order: images 1 and 3 are class 0.
    assert places[3] == (places[1][0], places[1][1] + pitch)
    assert places[0] == (places[1][0] + pitch, places[1][1])


def test_large_images_are_reduced_by_a_box_mean(tmp_path: Path) -> None:
    blocks = torch.randint(0, 256, (1, 3, 74, 74), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = blocks.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
    images = torch.nn.functional.pad(images, (0, 2, 0, 2))
    assert images.shape[-1] == 224
    picture = draw(tmp_path, images, torch.tensor([0]), ["cat"])
    contains(picture, blocks[0].permute(1, 2, 0).numpy())


def test_many_classes_and_images_stay_a_small_picture(tmp_path: Path) -> None:
    images = torch.zeros((200 * 12, 3, 8, 8), dtype=torch.uint8)
    labels = torch.arange(200).repeat_interleave(12)
    picture = draw(tmp_path, images, labels, [f"class with a rather long name {i}" for i in range(200)])
    black = (picture == 0).all(axis=2)
    assert black.any(axis=1).sum() <= 20 * 64 + 40
    assert black.any(axis=0).sum() <= 10 * 64 + 400
    assert picture.shape[0] < 1500
    assert picture.shape[1] < 1000
