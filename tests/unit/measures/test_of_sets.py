"""Measures of sets: when they are refused, and when they are not."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from ddbench.api.measure import Measure, Refusal
from ddbench.api.teacher import ClassStatistics
from ddbench.data.dataset import Dataset
from ddbench.distillation.context import MeasureContext
from ddbench.measures.frechet import frechet_distance
from ddbench.measures.of_sets import Coverage, FrechetDistance


def set_of(count: int) -> SimpleNamespace:
    images = torch.randint(256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return type("Images", (SimpleNamespace,), {"__len__": lambda self: len(self.pixels)})(pixels=images)


def first_pixels(batch: Tensor, bn: bool) -> SimpleNamespace:
    """Eight features."""
    return SimpleNamespace(features=batch[:, 0, 0])


@pytest.mark.parametrize(
    ("images", "real", "owner"), [(8, 5, "the set has 8"), (1, 5, "the set has 1"), (9, 0, "the training set has 0")]
)
def test_a_covariance_of_too_few_images_is_refused_with_the_rule(
    measure_task: Callable[..., MeasureContext], images: int, real: int, owner: str
) -> None:
    features = torch.randn(real, 8)
    task = measure_task(
        distilled=set_of(images), teacher=first_pixels, statistics=lambda label: ClassStatistics(features, [], [])
    )
    with pytest.raises(Refusal, match=f"8 features need more than 8 images, and {owner}"):
        FrechetDistance().compute(task)


def test_one_image_more_than_features_is_enough(measure_task: Callable[..., MeasureContext]) -> None:
    real = torch.randn(10, 3, 8, generator=torch.Generator().manual_seed(1))
    task = measure_task(
        distilled=set_of(9), teacher=first_pixels, statistics=lambda label: ClassStatistics(real[label], [], [])
    )
    features = task.dataset.normalise(task.distilled.pixels)[:, 0, 0]
    values = FrechetDistance().compute(task)
    assert values == {"fid": pytest.approx(frechet_distance(features, real.reshape(30, 8)))}


@pytest.mark.parametrize("measure", [Coverage(), FrechetDistance()])
def test_the_whole_training_set_is_no_distilled_set(measure: Measure, digits: Dataset) -> None:
    assert measure.skip(digits.info, 1) is None
    reason = f"measure {measure.name}: a distilled set is needed, not the whole training set"
    assert measure.skip(digits.info, None) == reason


def test_coverage_needs_more_real_images_than_neighbours(digits: Dataset) -> None:
    fewest = min(digits.info.train_counts)
    assert Coverage(neighbours=fewest - 1).skip(digits.info, 1) is None
    assert Coverage(neighbours=fewest).skip(digits.info, 1) == (
        f"coverage.neighbours {fewest}: the smallest class has only {fewest} training images"
    )
