"""The Gaussian MMD against double loops and closed forms in float64."""

import math

import pytest
import torch
from torch import Tensor

from ddbench.core.errors import DDBenchError
from ddbench.losses.features import mean_match
from ddbench.losses.mmd import gaussian_kernel_mean, gaussian_mmd, median_bandwidths


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights_of(seed: int = 0) -> Tensor:
    return torch.rand(7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.05


# -- MMD --------------------------------------------------------------------------------------------------------

BANDWIDTHS = (0.7, 1.5, 4.0)


def brute_mmd(x: Tensor, y: Tensor, x_weights: Tensor, y_weights: Tensor, unbiased: bool = False) -> float:
    """Gretton et al. 2012, Eq. 5 with masses, or Eq. 3, pair by pair."""

    def kernel(a: Tensor, b: Tensor) -> float:
        squared = sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True))
        return sum(math.exp(-squared / (2 * s**2)) for s in BANDWIDTHS)

    def mean(a: Tensor, b: Tensor, u: Tensor, v: Tensor, same: bool) -> float:
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (same and unbiased and i == j)]
        total = sum(float(u[i] * v[j]) for i, j in pairs)
        return sum(float(u[i] * v[j]) * kernel(a[i], b[j]) for i, j in pairs) / total

    own = mean(x, x, x_weights, x_weights, True) + mean(y, y, y_weights, y_weights, True)
    return own - 2 * mean(x, y, x_weights, y_weights, False)


def test_mmd_equals_the_double_loop_biased_weighted_and_unbiased() -> None:
    x, y = draw(5, 3), draw(8, 3, seed=1) + 0.4
    ones = torch.ones(5, dtype=torch.float64), torch.ones(8, dtype=torch.float64)
    weights = weights_of()[:5], torch.cat([weights_of(1), torch.zeros(1)])
    assert float(gaussian_mmd(x, y, BANDWIDTHS)) == pytest.approx(brute_mmd(x, y, *ones), rel=1e-12)
    assert float(gaussian_mmd(x, y, BANDWIDTHS, *weights)) == pytest.approx(brute_mmd(x, y, *weights), rel=1e-12)
    scaled = weights[0] * 7, weights[1] / 3
    assert float(gaussian_mmd(x, y, BANDWIDTHS, *scaled)) == pytest.approx(brute_mmd(x, y, *weights), rel=1e-12)
    one_side = gaussian_mmd(x, y, BANDWIDTHS, y_weights=weights[1])
    assert float(one_side) == pytest.approx(brute_mmd(x, y, ones[0], weights[1]), rel=1e-12)
    unbiased = gaussian_mmd(x, y, BANDWIDTHS, unbiased=True)
    assert float(unbiased) == pytest.approx(brute_mmd(x, y, *ones, unbiased=True), rel=1e-12)


def test_mmd_of_two_gaussians_is_its_closed_form_within_the_statistical_error() -> None:
    d, s1, s2, shift = 4, 1.0, 1.4, 0.6

    def closed(spread: float, distance: float) -> float:
        """E k(a, b) for a - b normal with covariance `spread` times the identity and a mean of that length."""
        return sum(
            (s**2 / (s**2 + spread)) ** (d / 2) * math.exp(-(distance**2) / (2 * (s**2 + spread))) for s in BANDWIDTHS
        )

    own_x, own_y, between = closed(2 * s1**2, 0), closed(2 * s2**2, 0), closed(s1**2 + s2**2, shift)
    expected = own_x + own_y - 2 * between
    count, n, m = 40, 300, 200
    x = s1 * draw(count, n, d)
    y = s2 * draw(count, m, d, seed=1)
    y[..., 0] += shift
    bias = (len(BANDWIDTHS) - own_x) / n + (len(BANDWIDTHS) - own_y) / m
    for unbiased, target in ((True, expected), (False, expected + bias)):
        actual = gaussian_mmd(x, y, BANDWIDTHS, unbiased=unbiased)
        error = float(actual.std()) / count**0.5
        assert error < min(0.05 * expected, 0.25 * bias)
        assert float(actual.mean()) == pytest.approx(target, abs=4 * error)


@pytest.mark.parametrize("unbiased", [False, True])
def test_mmd_passes_gradcheck(unbiased: bool) -> None:
    x, y = draw(2, 4, 3).requires_grad_(), draw(2, 6, 3, seed=1)
    weights = None if unbiased else weights_of()[:4]
    assert torch.autograd.gradcheck(lambda x: gaussian_mmd(x, y, BANDWIDTHS, weights, unbiased=unbiased), (x,))
    assert torch.autograd.gradcheck(lambda x: mean_match(x, y), (x,))


def test_mmd_is_zero_for_equal_samples_and_there_its_gradient_is_zero() -> None:
    y = draw(6, 3) * 5 + 100
    x = y.flip(0).clone().requires_grad_()
    value = gaussian_mmd(x, y, BANDWIDTHS)
    assert value.item() == pytest.approx(0, abs=1e-14)
    (grad,) = torch.autograd.grad(value, x)
    assert float(grad.abs().max()) < 1e-12


def test_mmd_is_batched_over_leading_dimensions_also_of_bandwidths() -> None:
    x, y = draw(2, 3, 5, 4), draw(2, 3, 7, 4, seed=1)
    scales = draw(2, 3, 2, seed=2).abs() + 0.5
    weights = draw(2, 3, 7, seed=3).abs()
    actual = gaussian_mmd(x, y, scales, y_weights=weights)
    own = gaussian_kernel_mean(y, scales, weights)
    assert actual.shape == (2, 3)
    torch.testing.assert_close(gaussian_mmd(x, y, scales, y_weights=weights, y_kernel_mean=own), actual)
    for i, j in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        alone = gaussian_mmd(x[i, j], y[i, j], scales[i, j].tolist(), y_weights=weights[i, j])
        torch.testing.assert_close(alone, actual[i, j])
        torch.testing.assert_close(mean_match(x, y)[i, j], mean_match(x[i, j], y[i, j]))


def test_mmd_in_low_precision_is_float32_also_under_autocast_and_far_from_the_origin() -> None:
    x, y = (draw(10, 16) + 300).float(), (draw(40, 16, seed=1) + 300.2).float()
    exact = gaussian_mmd(x.double(), y.double(), BANDWIDTHS)
    plain = gaussian_mmd(x, y, BANDWIDTHS)
    assert plain.dtype == torch.float32
    torch.testing.assert_close(plain.double(), exact, rtol=1e-4, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gaussian_mmd(x, y, BANDWIDTHS), plain)
    low = (x - 300).bfloat16(), (y - 300).bfloat16()
    assert torch.equal(gaussian_mmd(*low, BANDWIDTHS), gaussian_mmd(low[0].float(), low[1].float(), BANDWIDTHS))


def test_median_bandwidths_are_the_median_of_all_pairs_times_the_multiples() -> None:
    y = draw(9, 4)
    distances = sorted(float((y[i] - y[j]).norm()) for i in range(9) for j in range(i))
    median = distances[(len(distances) - 1) // 2]
    torch.testing.assert_close(median_bandwidths(y, (1.0, 3.0)), torch.tensor([median, 3 * median]).double())
    assert (median_bandwidths(y)[1:] ** 2 / median_bandwidths(y)[:-1] ** 2).tolist() == pytest.approx([2] * 4)
    assert median_bandwidths(y.float()).dtype == torch.float32
    torch.testing.assert_close(median_bandwidths(y[torch.randperm(9)]), median_bandwidths(y))


def test_what_an_mmd_cannot_take_is_refused() -> None:
    x, y = draw(3, 2), draw(4, 2, seed=1)
    for weights in ({"x_weights": torch.ones(3)}, {"y_weights": torch.ones(4)}):
        with pytest.raises(DDBenchError, match="unbiased MMD takes no weights"):
            gaussian_mmd(x, y, BANDWIDTHS, unbiased=True, **weights)
    with pytest.raises(DDBenchError, match="two or more samples on each side"):
        gaussian_mmd(x[:1], y, BANDWIDTHS, unbiased=True)
    for bandwidths in ([1.0, 0.0], [float("nan")]):
        with pytest.raises(DDBenchError, match="must be positive"):
            gaussian_mmd(x, y, bandwidths)
    with pytest.raises(DDBenchError, match="median distance of 5 samples is 0"):
        median_bandwidths(torch.ones(5, 2))
    with pytest.raises(DDBenchError, match="two samples or more"):
        median_bandwidths(x[:1])
