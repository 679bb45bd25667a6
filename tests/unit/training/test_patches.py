"""Patches: which crops are kept, what the teacher is shown, where a patch goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from ddbench.api.context import DistillTask
from ddbench.config.schema import DataConfig
from ddbench.data.dataset import load_dataset
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache
from ddbench.training import patches as numerics
from ddbench.training.patches import best_crops, random_crops, stitch, teacher_loss

SIZE = 9


def darkness(crops: Tensor) -> Tensor:
    """A loss without a teacher: the mean pixel."""
    return crops.mean((1, 2, 3))


@pytest.mark.parametrize("batch", [1, 13, 256])
def test_the_crop_of_lowest_loss_is_kept(
    make_task: Callable[..., DistillTask],
    brute_force: Callable[..., Tensor],
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
) -> None:
    monkeypatch.setattr(numerics, "CROPS_PER_BATCH", batch)
    task = make_task()
    candidates = task.dataset.train.of_class(4)[torch.tensor([7, 2, 30, 11, 5, 19])]
    boxes = random_crops(task, candidates, 4, Generator().manual_seed(1))
    patches, losses = best_crops(task, candidates, boxes, 5, darkness)
    assert patches.shape == (6, 3, 5, 5)
    for number, index in enumerate(candidates.tolist()):
        expected = brute_force(task, index, boxes[number], 5, darkness)
        torch.testing.assert_close(patches[number], expected, atol=1e-5, rtol=0)
        assert float(losses[number]) == pytest.approx(float(expected.mean()), abs=1e-5)


def test_crops_are_square_and_lie_in_images_of_their_own_sizes(
    make_task: Callable[..., DistillTask], brute_force: Callable[..., Tensor], tmp_path: Path
) -> None:
    shapes = [(12, 30), (25, 12), (12, 12), (13, 40)]
    for split in ("train", "val"):
        for number, (height, width) in enumerate(shapes):
            folder = tmp_path / "wide" / split / f"class{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            # No pixel is dark: the padding of a batch to its largest image, which is black, would win.
            pixels = np.random.default_rng(number).integers(60, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    spec = PluginRegistry().dataset(f"imagefolder:{tmp_path / 'wide'}")
    config = DataConfig(image_size=SIZE, stored_size=12)
    task = make_task(dataset=load_dataset(spec, config, None, Cache(tmp_path / "cache")))
    candidates = torch.arange(4)
    boxes = random_crops(task, candidates, 50, Generator().manual_seed(0))
    assert bool((boxes[..., 2] == boxes[..., 3]).all())
    sizes = task.dataset.train.sizes[:, None]
    assert bool((boxes[..., :2] + boxes[..., 2:] <= sizes).all())
    patches, _ = best_crops(task, candidates, boxes, 4, darkness)
    for number in range(4):
        expected = brute_force(task, number, boxes[number], 4, darkness)
        torch.testing.assert_close(patches[number], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", [1, 4, 9])
def test_the_teacher_judges_a_patch_in_the_middle_of_the_mean_colour(
    make_task: Callable[..., DistillTask], side: int
) -> None:
    task = make_task()
    patches = torch.rand(3, 3, side, side, generator=Generator().manual_seed(side))
    image = task.dataset.mean.view(1, 3, 1, 1).repeat(3, 1, SIZE, SIZE)
    first = (SIZE - side) // 2
    image[:, :, first : first + side, first : first + side] = patches
    logits = task.teacher(task.dataset.normalise(image)).logits.double()
    expected = cross_entropy(logits, torch.full((3,), 6), reduction="none")
    torch.testing.assert_close(teacher_loss(task, 6)(patches), expected, atol=1e-5, rtol=0)


def test_sure_patches_do_not_tie(make_task: Callable[..., DistillTask]) -> None:
    task = make_task()
    bias: Any = task.teacher.network.classifier.bias  # type: ignore[union-attr]
    with torch.no_grad():
        bias[6] += 22
    losses = teacher_loss(task, 6)(torch.rand(50, 3, 4, 4, generator=Generator().manual_seed(0)))
    assert float(losses.max()) < 2**-24  # in float32 the loss of every patch is 0
    assert len(set(losses.tolist())) == 50


@pytest.mark.parametrize(("size", "factor"), [(8, 2), (9, 2), (9, 1), (8, 3), (5, 5)])
def test_each_patch_has_a_place_of_its_own(size: int, factor: int) -> None:
    count, side = 3, size // factor
    values = torch.arange(count * factor**2, dtype=torch.float32)
    images = stitch(values.view(-1, 1, 1, 1).expand(-1, 3, side, side), size, factor)
    assert images.shape == (count, 3, size, size)
    long = size % factor  # so many rows, from the top, are a pixel wider
    starts = [number * side + min(number, long) for number in range(factor + 1)]
    for image in range(count):
        for row in range(factor):
            for column in range(factor):
                place = images[image, :, starts[row] : starts[row + 1], starts[column] : starts[column + 1]]
                assert place.shape[1:] == (side + (row < long), side + (column < long))
                assert set(place.flatten().tolist()) == {count * (factor * row + column) + image}


def test_a_patch_keeps_its_pixels() -> None:
    patches = torch.rand(4, 3, 4, 4, generator=Generator().manual_seed(0))
    (image,) = stitch(patches, 8, 2)
    assert torch.equal(image, torch.cat([torch.cat([*patches[:2]], 2), torch.cat([*patches[2:]], 2)], 1))
