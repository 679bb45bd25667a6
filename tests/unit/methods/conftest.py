"""Fixtures of the methods' tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torchvision.transforms.functional import resized_crop

from ddbench.api.context import DistillTask
from ddbench.data.dataset import Dataset
from ddbench.methods.selection import Selection
from ddbench.nn.taps import TappedNetwork
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache

SIZE = 9
Cloud = Callable[[int, int, int], Tensor]
Choose = Callable[..., list[int]]


@pytest.fixture(scope="session")
def cloud() -> Cloud:
    """Makes n points in d dimensions about 0."""

    def make(seed: int, n: int, d: int) -> Tensor:
        points = torch.randn(n, d, dtype=torch.float64, generator=Generator().manual_seed(seed))
        return points - points.mean(0)

    return make


@pytest.fixture(scope="session")
def choose() -> Choose:
    """The rows that a method selects."""

    def rows(method: Selection, features: Tensor, count: int, seed: int = 0) -> list[int]:
        chosen: list[int] = method.choose(features, count, Generator().manual_seed(seed)).tolist()
        return chosen

    return rows


@pytest.fixture
def pipeline(tmp_path: Path) -> Callable[..., Pipeline]:
    registry = PluginRegistry()
    workspace = Workspace(registry, Cache(tmp_path), None)

    def make(method: str, *assignments: str, repeats: int = 1, **request: Any) -> Pipeline:
        options = {"recipes": ("smoke",), "device": "cpu", "precision": "fp32", "ipcs": (3,), **request}
        assignments = ("data.image_size=8", "data.stored_size=8", "teacher.arch=convnet-d1", *assignments)
        grid = Request(methods=(method,), datasets=("digits",), assignments=assignments, repeats=repeats, **options)
        return Pipeline(workspace, experiments(grid, registry)[-1])

    return make


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


@pytest.fixture(scope="session")
def brute_force() -> Callable[..., Tensor]:
    """The crop of lowest loss of one image, cut by torchvision, one after the other."""

    def best(task: DistillTask, index: int, boxes: Tensor, side: int, loss: Callable[[Tensor], Tensor]) -> Tensor:
        height, width = task.dataset.train.sizes[index].tolist()
        image = task.dataset.train.read(torch.tensor([index]))[0][0, :, :height, :width].float() / 255
        crops: list[Tensor] = [resized_crop(image, *box, [side, side], antialias=True) for box in boxes.tolist()]
        return min(crops, key=lambda crop: float(loss(crop[None])))

    return best
