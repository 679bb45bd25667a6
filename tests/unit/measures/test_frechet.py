"""The Fréchet distance against its formula with SciPy's matrix square root, and where it is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg

from ddbench.measures.frechet import frechet_distance


def test_the_formula_with_the_matrix_square_root_of_scipy() -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(size=(40, 5)), random.normal(size=(60, 5)) @ random.normal(size=(5, 5)) + 1
    covariances = np.cov(first.T), np.cov(second.T)
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(torch.from_numpy(first), torch.from_numpy(second)) == pytest.approx(expected)


def test_equal_samples_have_none_and_a_shift_has_its_square() -> None:
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(points, points + torch.tensor([3.0, 4.0, 0.0])) == pytest.approx(25)


def test_scaled_samples_differ_by_their_deviations() -> None:
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]], dtype=torch.float64)
    deviations = points.std(0)
    # Commuting covariances: the distance is that of the standard deviations.
    assert frechet_distance(points, 3 * points) == pytest.approx(float((2 * deviations).square().sum()))
