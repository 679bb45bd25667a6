"""Coverage, recall and nearest distances by loops over points."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from ddbench.api.teacher import ClassStatistics
from ddbench.distillation.context import MeasureContext
from ddbench.measures.neighbours import coverage_of, coverage_of_classes, radii


def distance(first: Tensor, second: Tensor) -> float:
    return float((first - second).square().sum().sqrt())


def radius(points: Tensor, number: int, neighbours: int) -> float:
    others = [distance(points[number], points[other]) for other in range(len(points)) if other != number]
    return sorted(others)[neighbours - 1]


def by_loops(real: Tensor, distilled: Tensor, neighbours: int) -> dict[str, float]:
    covered = [
        any(distance(x, y) <= radius(real, number, neighbours) for y in distilled) for number, x in enumerate(real)
    ]
    recalled = [
        any(distance(x, y) <= radius(distilled, number, neighbours) for number, y in enumerate(distilled)) for x in real
    ]
    return {
        "nearest": sum(min(distance(x, y) for x in real) for y in distilled) / len(distilled),
        "coverage": sum(covered) / len(real),
        "recall": sum(recalled) / len(real),
    }


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_the_formulas_by_brute_force(neighbours: int) -> None:
    generator = torch.Generator().manual_seed(neighbours)
    real = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    distilled = 0.7 * torch.randn(8, 4, generator=generator, dtype=torch.float64)
    assert coverage_of(real, distilled, neighbours) == pytest.approx(by_loops(real, distilled, neighbours))


def test_the_real_images_themselves_cover_everything() -> None:
    real = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    assert coverage_of(real, real, 2) == {"nearest": 0, "coverage": 1, "recall": 1}


def test_distant_images_cover_nothing_and_few_images_have_no_recall() -> None:
    real = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    values = coverage_of(real, torch.full((2, 3), 1e3), 2)
    assert values.keys() == {"nearest", "coverage"}
    assert values["coverage"] == 0
    assert values["nearest"] > 1e3


def test_radii_exclude_the_point_itself_but_not_its_copies() -> None:
    points = torch.tensor([[0.0], [0.0], [3.0], [10.0]], dtype=torch.float64)
    assert radii(points, 1).tolist() == [0, 0, 3, 7]
    assert radii(points, 2).tolist() == [3, 3, 3, 10]


def test_values_are_means_over_classes(measure_task: Callable[..., MeasureContext]) -> None:
    generator = torch.Generator().manual_seed(3)
    real = torch.randn(10, 12, 192, generator=generator)
    images = torch.randint(256, (25, 3, 8, 8), generator=generator).to(torch.uint8)
    labels = torch.tensor([*(number % 10 for number in range(20)), 0, 0, 0, 0, 0])
    distilled = SimpleNamespace(pixels=images, labels=labels)

    def teacher(batch: Tensor, bn: bool) -> SimpleNamespace:
        return SimpleNamespace(features=batch.flatten(1))

    task = measure_task(
        distilled=distilled, teacher=teacher, statistics=lambda label: ClassStatistics(real[label], [], [])
    )
    features = task.dataset.normalise(images).flatten(1)
    of_classes = [coverage_of(real[label], features[labels == label], 2) for label in range(10)]
    assert "recall" in of_classes[0]
    values = coverage_of_classes(task, 2)
    assert values.keys() == {"nearest", "coverage"}  # nine classes have two images, too few for recall
    for name, value in values.items():
        assert value == pytest.approx(sum(each[name] for each in of_classes) / 10)
