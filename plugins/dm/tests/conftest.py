"""A small task of the methods: 8 px, two images per class, no teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ddbench.data.dataset import Dataset
from ddbench.distillation.context import DistillContext
from ddbench.storage.checkpoint import Checkpoint

IPC = 2
SIZE = 8


@pytest.fixture(scope="module")
def digits(digits_at: Callable[..., Dataset]) -> Dataset:
    return digits_at(SIZE)


@pytest.fixture
def make_task(digits: Dataset, tmp_path: Path) -> Callable[..., DistillContext]:
    def no_teacher() -> Any:
        raise AssertionError("the method asked for a teacher")

    def make(seed: int = 0, report: Callable[..., None] = lambda step, total, **metrics: None) -> DistillContext:
        return DistillContext(
            dataset=digits,
            ipc=IPC,
            seed=seed,
            device=torch.device("cpu"),
            precision="fp32",
            checkpoint=Checkpoint(tmp_path / "slot.safetensors"),
            checkpoint_every=2,
            report=report,
            cached=lambda name, depends_on, fn: fn(),
            statistics=lambda label: no_teacher(),
            timing={},
            _teacher=no_teacher,
        )

    return make
