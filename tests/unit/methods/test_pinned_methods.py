"""The results that the versions of the core's own methods stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ddbench.api.context import DistillTask
from ddbench.api.teacher import ClassStatistics
from ddbench.data.dataset import Dataset
from ddbench.methods import ddbench_distillers
from ddbench.nn import statistics

PINNED: dict[str, tuple[str, dict[str, Any], float]] = {
    "random": ("1", {}, 439756),
    "herding": ("1", {}, 8334),
    "k-center": ("1", {}, 8060),
    "kmeans": ("1", {}, 8125),
    "rded": ("1", {"candidates": 20, "crops": 3}, 9.565666),
    "full": ("1", {}, 989119672),
}
"""Its version, its settings, and its indices, weighted by position and added up, or the norm of its images."""


@pytest.mark.parametrize("name", PINNED)
def test_a_method_gives_what_its_version_stands_for(
    name: str, make_task: Callable[..., DistillTask], digits: Dataset
) -> None:
    """Edits of the core's methods do not invalidate cached artifacts: their versions do."""
    version, settings, expected = PINNED[name]
    task = make_task(ipc=3)

    def of_class(label: int) -> ClassStatistics:
        return statistics.collect(
            task.teacher, [digits.evaluation_view("train", digits.train.of_class(label))], "exact"
        )

    (cls,) = (cls for cls in ddbench_distillers() if cls.name == name)
    method = cls(**settings)
    unit = method.units(10, 3)[-1]
    result: Any = method.distill(dataclasses.replace(task, statistics=of_class), unit)  # type: ignore[type-var]
    if result.images is None:
        actual = int(result.indices @ torch.arange(1, len(result.indices) + 1))
    else:
        actual = pytest.approx(float(result.images.norm()), rel=1e-4)
    assert expected == actual, f"raise {cls.__name__}.version, then pin the new numbers"
    assert cls.version == version


def test_every_method_of_the_core_is_pinned() -> None:
    assert set(PINNED) == {cls.name for cls in ddbench_distillers()}
