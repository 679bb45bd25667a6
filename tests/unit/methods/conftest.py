"""Fixtures of the methods' tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from ddbench.data.dataset import Dataset
from ddbench.methods.selection import Selection
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


@pytest.fixture(scope="module")
def digits(digits_at: Callable[..., Dataset]) -> Dataset:
    return digits_at(SIZE, SIZE + 2)
