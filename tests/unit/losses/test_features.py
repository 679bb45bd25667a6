"""Feature losses against brute force in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ddbench.losses.features import cross_entropy, feature_match, mean_match


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_feature_match_forms() -> None:
    features, targets = draw(4, 6), draw(4, 6, seed=1)
    squared = sum((a - b) ** 2 for a, b in zip(features.flatten(), targets.flatten(), strict=True))
    torch.testing.assert_close(feature_match(features, targets, "squared").double(), squared)
    torch.testing.assert_close(feature_match(features, targets, "norm").double(), squared.sqrt())
    met = targets.clone().requires_grad_()
    (grad,) = torch.autograd.grad(feature_match(met, targets, "norm"), met)
    assert torch.equal(grad, torch.zeros_like(grad))
    assert feature_match(features.bfloat16(), targets.bfloat16(), "norm").dtype == torch.float32


def test_gradients_are_those_of_the_formulas() -> None:
    """2 (f - b) for the sum of squares, (f - b) / |f - b| for the norm, (softmax - one-hot) / B for cross-entropy."""
    features, targets = draw(4, 6).requires_grad_(), draw(4, 6, seed=1)
    difference = (features - targets).detach().numpy()
    for form, expected in (("squared", 2 * difference), ("norm", difference / np.sqrt((difference**2).sum()))):
        (grad,) = torch.autograd.grad(feature_match(features, targets, form), features)  # type: ignore[arg-type]
        np.testing.assert_allclose(grad, expected, rtol=1e-5)
    logits, labels = draw(5, 3).requires_grad_(), [0, 2, 1, 1, 0]
    (grad,) = torch.autograd.grad(cross_entropy(logits, torch.tensor(labels)), logits)
    scores = np.exp(logits.detach().numpy())
    expected = (scores / scores.sum(1, keepdims=True) - np.eye(3)[labels]) / 5
    np.testing.assert_allclose(grad, expected, rtol=1e-5)


def test_cross_entropy_is_the_mean_of_minus_log_probabilities() -> None:
    logits, labels = draw(5, 3), torch.tensor([0, 2, 1, 1, 0])
    expected = -sum((row.exp() / row.exp().sum()).log()[k] for row, k in zip(logits, labels, strict=True)) / 5
    torch.testing.assert_close(cross_entropy(logits, labels).double(), expected)


def test_mean_match_is_the_mmd_of_the_linear_kernel() -> None:
    x, y = draw(5, 3), draw(4, 3, seed=1)
    means = [[float(a @ b) for a in p for b in q] for p, q in ((x, x), (y, y), (x, y))]
    expected = sum(means[0]) / 25 + sum(means[1]) / 16 - 2 * sum(means[2]) / 20
    assert float(mean_match(x, y)) == pytest.approx(expected, rel=1e-12)
