"""The calibration error by hand, by a loop over the bins, and by torchmetrics where it is installed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ddbench.measures.calibration import calibration_error


def draw(count: int = 200, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    return logits.softmax(1), torch.randint(classes, (count,), generator=generator)


def by_loop(probabilities: Tensor, labels: Tensor, bins: int) -> float:
    error = 0.0
    for number in range(bins):
        inside = [
            row for row in range(len(labels)) if number / bins < float(probabilities[row].max()) <= (number + 1) / bins
        ]
        if inside:
            accuracy = sum(int(probabilities[row].argmax() == labels[row]) for row in inside) / len(inside)
            confidence = sum(float(probabilities[row].max()) for row in inside) / len(inside)
            error += len(inside) / len(labels) * abs(accuracy - confidence)
    return error


@pytest.mark.parametrize("bins", [1, 5, 15])
def test_it_is_the_mean_gap_of_the_bins(bins: int) -> None:
    probabilities, labels = draw()
    assert calibration_error(probabilities, labels, bins) == pytest.approx(
        by_loop(probabilities, labels, bins), abs=1e-12
    )


def test_by_hand_in_three_of_fifteen_bins() -> None:
    # Bin (9/15, 10/15]: confidences 0.62 and 0.64, one correct: |0.5 - 0.63|. Bin (14/15, 1]: 1.0, correct: 0, and
    # bin (5/15, 6/15]: 0.36, wrong: 0.36.
    probabilities = torch.tensor(
        [[0.62, 0.3, 0.08], [0.3, 0.64, 0.06], [1.0, 0.0, 0.0], [0.32, 0.32, 0.36]], dtype=torch.float64
    )
    error = calibration_error(probabilities, torch.tensor([0, 0, 0, 1]), 15)
    assert error == pytest.approx((2 * 0.13 + 0 + 0.36) / 4)


def test_certain_students_have_their_error_rate_and_perfect_ones_none() -> None:
    certain = torch.eye(2, dtype=torch.float64)[[0, 0, 1, 1]]
    assert calibration_error(certain, torch.tensor([0, 0, 1, 1]), 15) == 0
    assert calibration_error(certain, torch.tensor([0, 1, 1, 1]), 15) == 0.25


def test_torchmetrics_has_the_same_definition() -> None:
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification", reason="torchmetrics is not installed")
    probabilities, labels = draw()
    theirs = torchmetrics.multiclass_calibration_error(probabilities, labels, num_classes=4, n_bins=15, norm="l1")
    assert calibration_error(probabilities, labels, 15) == pytest.approx(float(theirs), abs=1e-6)
