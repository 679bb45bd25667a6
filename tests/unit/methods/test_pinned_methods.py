"""The results that the versions of the core's own methods stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ddbench.api.context import DistillTask
from ddbench.api.teacher import ClassStatistics
from ddbench.core import seeds
from ddbench.data.dataset import Dataset
from ddbench.methods import ddbench_distillers
from ddbench.nn import statistics

PINNED: dict[str, tuple[str, dict[str, Any], float]] = {
    "random": ("1", {}, 439756),
    "herding": ("1", {}, 8334),
    "k-center": ("1", {}, 8060),
    "kmeans": ("1", {}, 8125),
    "el2n": ("1", {}, 8350),
    "grand": ("1", {}, 8367),
    "forgetting": ("1", {}, 8381),
    "aum": ("1", {}, 8404),
    "ccs": ("1", {}, 8253),
    "confidence": ("1", {}, 8203),
    "rded": ("1", {"candidates": 20, "crops": 3}, 9.565666),
    "full": ("1", {}, 989119672),
}
"""Its version, its settings, and its indices, weighted by position and added up, or the norm of its images."""


SCORES = ("el2n", "last_layer_gradient", "gradient", "aum", "probability_margin", "forgetting")


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

    def tensors(stage: str, part: int = 0) -> dict[str, torch.Tensor]:
        """Scores as the stage `dynamics` stores them; what it computes is pinned in test_tracking.py."""
        draws = seeds.generator("pinned", stage, part)
        scores = {score: torch.randn(len(digits.train), generator=draws).double() for score in SCORES}
        return scores | {"forgetting": scores["forgetting"].round()}

    (cls,) = (cls for cls in ddbench_distillers() if cls.name == name)
    method = cls(**settings)
    unit = method.units(10, 3)[-1]
    result: Any = method.distill(dataclasses.replace(task, statistics=of_class, tensors=tensors), unit)  # type: ignore[type-var]
    if result.images is None:
        actual = int(result.indices @ torch.arange(1, len(result.indices) + 1))
    else:
        actual = pytest.approx(float(result.images.norm()), rel=1e-4)
    assert expected == actual, f"raise {cls.__name__}.version, then pin the new numbers"
    assert cls.version == version


def test_every_method_of_the_core_is_pinned() -> None:
    assert set(PINNED) == {cls.name for cls in ddbench_distillers()}
