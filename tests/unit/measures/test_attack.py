"""Projected gradient ascent: a closed form of linear networks, the bound, and the accuracies on real images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ddbench.distillation.context import MeasureContext
from ddbench.measures.attack import perturb, robust_accuracy
from ddbench.measures.predictions import evaluation_batches, student_logits

MakeTask = Callable[..., MeasureContext]


def test_a_linear_network_of_two_classes_is_attacked_to_the_corner_of_the_ball() -> None:
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(3 * 4 * 4, generator=generator)
    pixels = torch.rand(6, 3, 4, 4, generator=generator)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])

    def network(images: Tensor) -> Tensor:
        score = images.flatten(1) @ direction
        return torch.stack([-score, score], 1)

    start = 2 * torch.rand(pixels.shape, generator=generator) - 1
    attacked = perturb(network, pixels, labels, start, epsilon=0.05, steps=10, step_size=0.0125)
    # The loss of class 0 grows with the score, that of class 1 against it: the sign of the gradient is constant.
    away = torch.where(labels == 0, 1.0, -1.0).view(-1, 1, 1, 1) * direction.sign().view(3, 4, 4)
    torch.testing.assert_close(attacked, (pixels + 0.05 * away).clamp(0, 1))


@pytest.mark.parametrize("epsilon", [0.0, 2 / 255, 0.5])
def test_the_perturbation_is_within_the_ball_and_the_pixels_are_within_bounds(epsilon: float) -> None:
    generator = torch.Generator().manual_seed(1)
    pixels, labels = torch.rand(5, 3, 8, 8, generator=generator).round(decimals=1), torch.arange(5)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).requires_grad_(False)
    start = 2 * torch.rand(pixels.shape, generator=generator) - 1
    attacked = perturb(network, pixels, labels, start, epsilon, 5, 0.4)
    assert float((attacked - pixels).abs().max()) <= epsilon + 1e-7
    assert 0 <= float(attacked.min()) <= float(attacked.max()) <= 1
    assert (epsilon == 0) == torch.equal(attacked, pixels)


def test_the_accuracy_falls_with_the_radius_and_is_clean_without_one(
    measure_task: MakeTask, nearest_mean: nn.Module
) -> None:
    task = measure_task(nearest_mean)
    top1 = 100 * float((student_logits(task).argmax(1) == task.dataset.val.labels).double().mean())
    results = {epsilon: robust_accuracy(task, epsilon, 5, max(epsilon / 4, 1e-3)) for epsilon in (0.0, 0.02, 0.2, 1.0)}
    assert results[0.0] == (top1, top1)
    assert [clean for clean, _ in results.values()] == [top1] * 4
    robust = [value for _, value in results.values()]
    assert robust == sorted(robust, reverse=True)
    assert robust[0] > robust[2] > robust[3]
    assert robust_accuracy(task, 0.2, 5, 0.05) == results[0.2]


def test_an_image_counts_only_if_it_is_correct_before_and_after(measure_task: MakeTask) -> None:
    class Against(nn.Module):
        """Classifies uniform images wrongly, and so correctly only after a change."""

        def forward(self, images: Tensor) -> Tensor:
            return torch.zeros(len(images), 10).index_fill(1, torch.tensor([3]), 1.0) + 0 * images.sum()

    task = measure_task(Against())
    share = 100 * float((task.dataset.val.labels == 3).double().mean())
    assert robust_accuracy(task, 0.1, 2, 0.05) == (share, share)
    images, labels = next(iter(evaluation_batches(task)))
    assert images.dtype == torch.uint8
    assert len(images) == len(labels) == min(256, len(task.dataset.val))
