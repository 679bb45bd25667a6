"""The task of a measure on the digits, without a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ddbench.data.dataset import Dataset
from ddbench.distillation.context import MeasureContext


@pytest.fixture(scope="session")
def digits(digits_at: Callable[..., Dataset]) -> Dataset:
    """The digits at 8 px."""
    return digits_at(8)


@pytest.fixture(scope="session")
def nearest_mean(digits: Dataset) -> nn.Module:
    """A linear student: the logits of an image are its similarity to the mean image of each class."""
    train = digits.train
    means = torch.stack(
        [
            digits.evaluation_view("train", train.of_class(label)).mean(0).flatten()
            for label in range(digits.info.num_classes)
        ]
    )
    linear = nn.Linear(means.shape[1], len(means))
    linear.load_state_dict({"weight": means, "bias": -means.square().sum(1) / 2})
    return nn.Sequential(nn.Flatten(), linear).eval().requires_grad_(False)


@pytest.fixture
def measure_task(digits: Dataset) -> Callable[..., MeasureContext]:
    """Makes the task of a measure of the digits. Its fields are those that are given; others raise."""

    def make(student: object = None, distilled: object = None, teacher: object = None, **more: Any) -> MeasureContext:
        given: dict[str, Any] = {
            "name": "measure",
            "dataset": digits,
            "device": torch.device("cpu"),
            "precision": "fp32",
            "report": lambda step, total: None,
            "statistics": lambda label: pytest.fail("not asked for"),
            "_student": lambda: student or pytest.fail("not asked for"),
            "_distilled": lambda: distilled or pytest.fail("not asked for"),
            "_teacher": lambda: teacher or pytest.fail("not asked for"),
        }
        return MeasureContext(**{**given, **more})

    return make
