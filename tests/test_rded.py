"""RDED: which crops are kept, what the teacher is shown, where a patch goes; then on digits from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.transforms.functional import resized_crop

from ddbench.api.context import DistillTask
from ddbench.api.dataset import DatasetInfo
from ddbench.api.units import Unit
from ddbench.config.schema import DataConfig
from ddbench.data.dataset import Dataset, load_dataset
from ddbench.methods import patches as numerics
from ddbench.methods.patches import best_crops, random_crops, stitch, teacher_loss
from ddbench.methods.rded import RDED
from ddbench.nn.taps import TappedNetwork
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache

SIZE = 9


class Small(nn.Module):
    """One strided convolution and a linear classifier of ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3, stride=2)
        self.classifier = nn.Linear(6 * 16, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.convolution(images).relu().flatten(1))
        return logits


@pytest.fixture(scope="module")
def digits(digits_at: Callable[..., Dataset]) -> Dataset:
    return digits_at(SIZE, SIZE + 2)


@pytest.fixture
def make_task(digits: Dataset, bare_task: Callable[..., DistillTask]) -> Callable[..., DistillTask]:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        teacher = TappedNetwork(Small())

    def make(ipc: int = 3, seed: int = 0, dataset: Dataset = digits) -> DistillTask:
        return bare_task(dataset, teacher, ipc=ipc, seed=seed)

    return make


def made(method: RDED, task: DistillTask, unit: Unit) -> Tensor:
    images = method.distill(task, unit).images
    assert images is not None
    return images


def darkness(crops: Tensor) -> Tensor:
    """A loss without a teacher: the mean pixel."""
    return crops.mean((1, 2, 3))


def brute_force(task: DistillTask, index: int, boxes: Tensor, side: int, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The crop of lowest loss of one image, cut by torchvision, one after the other."""
    height, width = task.dataset.train.sizes[index].tolist()
    image = task.dataset.train.read(torch.tensor([index]))[0][0, :, :height, :width].float() / 255
    crops: list[Tensor] = [resized_crop(image, *box, [side, side], antialias=True) for box in boxes.tolist()]
    return min(crops, key=lambda crop: float(loss(crop[None])))


@pytest.mark.parametrize("batch", [1, 13, 256])
def test_the_crop_of_lowest_loss_is_kept(
    make_task: Callable[..., DistillTask], monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(numerics, "_BATCH", batch)
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
    make_task: Callable[..., DistillTask], tmp_path: Path
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
        bias[6] += 30
    losses = teacher_loss(task, 6)(torch.rand(50, 3, 4, 4, generator=Generator().manual_seed(0)))
    assert float(losses.max()) < 1e-9
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


def test_the_best_of_a_class_are_taken_best_first(make_task: Callable[..., DistillTask]) -> None:
    task = make_task(ipc=2)
    method = RDED(candidates=30, crops=3, factor=3)
    images = made(method, task, method.units(10, 2)[4])
    kept = [image[:, top : top + 3, left : left + 3] for top in (0, 3, 6) for left in (0, 3, 6) for image in images]

    mine, loss = task.dataset.train.of_class(4), teacher_loss(task, 4)
    candidates = mine[torch.randperm(len(mine), generator=task.generator("rded", "images", 4))[:30]]
    boxes = random_crops(task, candidates, 3, task.generator("rded", "crops", 4))
    best = [brute_force(task, int(index), box, 3, loss) for index, box in zip(candidates, boxes, strict=True)]
    best.sort(key=lambda patch: float(loss(patch[None])))
    torch.testing.assert_close(torch.stack(kept), torch.stack(best[:18]), atol=1e-5, rtol=0)


def test_units_can_be_made_in_any_order(make_task: Callable[..., DistillTask]) -> None:
    method = RDED(candidates=20, crops=2)
    units = method.units(10, 3)
    assert [{slot.label for slot in unit.slots} for unit in units] == [{label} for label in range(10)]
    forward = [made(method, make_task(), unit) for unit in units]
    backward = [made(method, make_task(), unit) for unit in reversed(units)]
    for first, second in zip(forward, reversed(backward), strict=True):
        assert torch.equal(first, second)
        assert 0 <= float(first.min()) < float(first.max()) <= 1
    assert not torch.equal(forward[0], made(method, make_task(seed=1), units[0]))


def test_more_candidates_and_more_crops_never_look_less_real(make_task: Callable[..., DistillTask]) -> None:
    task = make_task(ipc=3)
    unit = RDED().units(10, 3)[8]

    def loss(**changed: int) -> float:
        method = RDED(candidates=12, crops=1, factor=1).model_copy(update=changed)
        return float(teacher_loss(task, 8)(made(method, task, unit)).mean())

    assert loss(candidates=100) < loss()
    assert loss(crops=40) < loss()


def test_what_cannot_be_made_is_refused_in_one_line() -> None:
    info = DatasetInfo("two", ("cat", "dog"), ("cat", "dog"), (500, 80), (1, 1), 16, "")
    assert RDED().skip(info, None) is None
    assert RDED().skip(info, 20) is None  # the whole of the smaller class
    assert RDED(candidates=79).skip(info, 20) == (
        "--ipc 20 takes 80 crops a class, each of another image, and rded.candidates is 79: "
        "--set rded.candidates=80 or more"
    )
    assert RDED().skip(info, 21) == (
        "--ipc 21 takes 84 crops a class, each of another image, and class 'dog' has 80 training images: "
        "lower --ipc or rded.factor"
    )
    assert RDED(factor=1).skip(info, 80) is None
    assert RDED(factor=17).skip(info, 1) == "rded.factor 17 is more than the 16 pixels of an image's side"


def test_small_images_are_one_crop_as_in_the_released_scripts() -> None:
    registry = PluginRegistry()
    for dataset, budget, factor in (
        ("imagenette", "paper", 2),
        ("imagenet-1k", "paper", 2),
        ("tiny-imagenet", "paper", 1),
        ("cifar10", "quick", 1),
        ("imagenette", "quick", 2),
    ):
        (cell,) = experiments(Request(("rded",), (dataset,), (10,), (budget,)), registry)
        settings = cell.method.model_dump()
        assert (settings["candidates"], settings["crops"], settings["factor"]) == (300, 5, factor)


def test_the_command_line_makes_and_judges_it(shell: Any) -> None:
    settings = ("--set", "rded.candidates=40", "--set", "rded.crops=2")
    outcome = shell.run("--method", "rded", "--dataset", "digits", "--ipc", "1", "--ipc", "2", *settings)
    records = [json.loads(path.read_text()) for path in (shell.results / "records").glob("*.json")]
    assert sorted(record["distilled_images"] for record in records) == [10, 20]
    assert "rded" in outcome.out
    before = shell.files("cache/distill")
    assert len(before) == 20  # ten classes, two IPCs
    shell.run("--method", "rded", "--dataset", "digits", "--ipc", "1", "--ipc", "2", *settings)
    assert shell.files("cache/distill") == before


def test_too_large_an_ipc_is_one_line_before_anything_is_trained(shell: Any) -> None:
    outcome = shell("run", "--method", "rded", "--dataset", "digits", "--ipc", "50", "--recipe", "smoke")
    assert outcome.code != 0
    assert len(outcome.errors) == 1
    assert "--ipc 50 takes 200 crops a class" in outcome.err
    assert not Path(shell.cache / "teacher").exists()
