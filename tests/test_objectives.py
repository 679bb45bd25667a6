"""The loss terms against brute force in float64, written from the paper's equations with plain loops."""

import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddbench.core.errors import DDBenchError
from ddbench.losses.batchnorm import class_moments, class_weight_matrix, global_bn, pcbn
from ddbench.losses.features import cross_entropy, feature_match, mean_match
from ddbench.losses.mmd import gaussian_kernel_mean, gaussian_mmd, median_bandwidths
from ddbench.nn.batchnorm_moments import moments

SHAPES = [(7, 3, 5, 4), (7, 2, 6), (7, 5)]
LABELS = torch.tensor([4, 0, 4, 9, 0, 0, 4])  # three classes of unequal size, not in order
Form = Literal["squared", "norm"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights_of(seed: int = 0) -> Tensor:
    return torch.rand(7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.05


def brute_moments(maps: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 14 for one class: maps [m, C, positions], weights [m], any scale."""
    total, positions = weights.sum(), maps.shape[2]
    means, variances = [], []
    for channel in range(maps.shape[1]):
        mean = sum(w * value for w, image in zip(weights, maps, strict=True) for value in image[channel])
        mean = mean / (positions * total)
        spread = sum(
            w * (value - mean) ** 2 for w, image in zip(weights, maps, strict=True) for value in image[channel]
        )
        means.append(mean)
        variances.append(spread / (positions * total))
    return torch.stack(means), torch.stack(variances)


def brute_pcbn(
    layers: list[Tensor],
    weights: Tensor,
    means: list[Tensor],
    variances: list[Tensor],
    form: Form,
    first: float,
) -> Tensor:
    """Eq. 13 (or, for "norm", the released code's form of it), class by class and layer by layer."""
    total = torch.zeros((), dtype=torch.float64)
    labels = sorted(set(LABELS.tolist()))
    for number, layer in enumerate(layers):
        for row, label in enumerate(labels):
            maps = layer[label == LABELS].reshape(int((label == LABELS).sum()), layer.shape[1], -1)
            mean, variance = brute_moments(maps, weights[label == LABELS])
            errors = [
                ((mean - means[number][row]) ** 2).sum(),
                ((variance - variances[number][row]) ** 2).sum(),
            ]
            if form == "norm":
                errors = [error.sqrt() / len(labels) for error in errors]
            total = total + (first if number == 0 else 1.0) * (errors[0] + errors[1])
    return total


@pytest.mark.parametrize("form", ["squared", "norm"])
@pytest.mark.parametrize("first", [1.0, 10.0])
def test_pcbn_with_unequal_weights_and_its_gradient_equal_brute_force(form: Form, first: float) -> None:
    layers = [draw(*shape, seed=number) + 0.5 for number, shape in enumerate(SHAPES)]
    means = [draw(3, layer.shape[1], seed=10 + number) for number, layer in enumerate(layers)]
    variances = [draw(3, layer.shape[1], seed=20 + number) ** 2 for number, layer in enumerate(layers)]
    weights = weights_of()
    slow = [layer.clone().requires_grad_() for layer in layers]
    brute = brute_pcbn(slow, weights, means, variances, form, first)
    fast = [layer.clone().requires_grad_() for layer in layers]
    ours = pcbn(fast, class_weight_matrix(LABELS, weights), means, variances, form, first)
    torch.testing.assert_close(ours, brute, rtol=1e-12, atol=0)
    for a, b in zip(torch.autograd.grad(ours, fast), torch.autograd.grad(brute, slow), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_pcbn_in_float32_keeps_small_variances_beside_large_means() -> None:
    layer = (draw(7, 3, 8, 8) * 0.01 + 50).float()
    weights = weights_of().float()
    _, variance = class_moments(layer, class_weight_matrix(LABELS, weights))
    for row, label in enumerate(sorted(set(LABELS.tolist()))):
        member = label == LABELS
        _, brute = brute_moments(layer[member].flatten(2).double(), weights[member].double())
        torch.testing.assert_close(variance[row].double(), brute, rtol=1e-3, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_moments_pass_gradcheck_and_equal_their_definition(shape: tuple[int, ...]) -> None:
    x = draw(*shape).requires_grad_()
    flat = x.detach().reshape(shape[0], shape[1], -1)
    mean, variance = moments(x)
    torch.testing.assert_close(mean, flat.mean(2))
    torch.testing.assert_close(variance, flat.var(2, correction=0))
    assert torch.autograd.gradcheck(moments, (x,))


def test_moments_follow_the_memory_format_and_low_precision_keeps_float32_statistics() -> None:
    x = draw(4, 6, 5, 5).float()
    by_channel = x.to(memory_format=torch.channels_last).requires_grad_()
    plain = x.clone().requires_grad_()
    grads = []
    for leaf in (plain, by_channel):
        mean, variance = moments(leaf)
        grads.append(torch.autograd.grad((mean.sin() + variance.square()).sum(), leaf)[0])
    torch.testing.assert_close(*grads)
    assert grads[1].is_contiguous(memory_format=torch.channels_last)

    low = x.bfloat16().requires_grad_()
    mean, variance = moments(low)
    torch.testing.assert_close(mean, low.float().mean((2, 3)))
    torch.testing.assert_close(variance, low.float().var((2, 3), correction=0))
    (grad,) = torch.autograd.grad((mean.sin() + variance.square()).sum(), low)
    assert grad.dtype == torch.bfloat16
    torch.testing.assert_close(grad.float(), grads[0], rtol=0.05, atol=0.01)


def test_a_loss_under_autocast_is_the_loss_without() -> None:
    layers, rows = [draw(7, 3, 5, 4).float()], class_weight_matrix(LABELS, weights_of().float())
    means, variances = [draw(3, 3, seed=1).float()], [draw(3, 3, seed=2).float() ** 2]
    plain = pcbn(layers, rows, means, variances, "norm")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pcbn(layers, rows, means, variances, "norm"), plain)
    assert plain.dtype == torch.float32


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 9))
def test_uniform_weights_are_the_moments_of_all_images_and_positions(seed: int, images: int, side: int) -> None:
    x = draw(images, 3, side, side, seed=seed)
    mean, variance = class_moments(x, torch.full((1, images), 1 / images))
    pooled = x.transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean[0], pooled.mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(variance[0], pooled.var(1, correction=0), rtol=1e-6, atol=1e-6)


def test_feature_match_forms() -> None:
    features, targets = draw(4, 6), draw(4, 6, seed=1)
    squared = sum((a - b) ** 2 for a, b in zip(features.flatten(), targets.flatten(), strict=True))
    torch.testing.assert_close(feature_match(features, targets, "squared").double(), squared)
    torch.testing.assert_close(feature_match(features, targets, "norm").double(), squared.sqrt())
    met = targets.clone().requires_grad_()
    (grad,) = torch.autograd.grad(feature_match(met, targets, "norm"), met)
    assert torch.equal(grad, torch.zeros_like(grad))
    assert feature_match(features.bfloat16(), targets.bfloat16(), "norm").dtype == torch.float32


def test_cross_entropy_is_the_mean_of_minus_log_probabilities() -> None:
    logits, labels = draw(5, 3), torch.tensor([0, 2, 1, 1, 0])
    expected = -sum((row.exp() / row.exp().sum()).log()[k] for row, k in zip(logits, labels, strict=True)) / 5
    torch.testing.assert_close(cross_entropy(logits, labels).double(), expected)


def test_global_bn_is_the_sum_of_norms_over_the_whole_batch_with_the_first_layer_times_ten() -> None:
    layers = [draw(*shape, seed=number) for number, shape in enumerate(SHAPES)]
    means = [draw(layer.shape[1], seed=10 + number) for number, layer in enumerate(layers)]
    variances = [draw(layer.shape[1], seed=20 + number) ** 2 for number, layer in enumerate(layers)]
    expected = torch.zeros((), dtype=torch.float64)
    for number, layer in enumerate(layers):
        pooled = layer.transpose(0, 1).flatten(1)
        error = (pooled.mean(1) - means[number]).norm() + (pooled.var(1, correction=0) - variances[number]).norm()
        expected = expected + error * (10 if number == 0 else 1)
    torch.testing.assert_close(global_bn(layers, means, variances), expected)
    assert global_bn([layer.float() for layer in layers], means, variances).isfinite()


def test_global_bn_squared_is_pcbn_of_one_class_that_holds_the_batch() -> None:
    layers = [draw(*shape, seed=number) for number, shape in enumerate(SHAPES)]
    means = [draw(layer.shape[1], seed=10 + number) for number, layer in enumerate(layers)]
    variances = [draw(layer.shape[1], seed=20 + number) ** 2 for number, layer in enumerate(layers)]
    expected = torch.zeros((), dtype=torch.float64)
    for number, layer in enumerate(layers):
        pooled = layer.transpose(0, 1).flatten(1)
        error = (pooled.mean(1) - means[number]).square().sum()
        error = error + (pooled.var(1, correction=0) - variances[number]).square().sum()
        expected = expected + error * (10 if number == 0 else 1)
    torch.testing.assert_close(global_bn(layers, means, variances, form="squared"), expected)


def test_without_batchnorm_layers_there_is_nothing_to_match() -> None:
    assert global_bn([], [], []) == 0
    assert pcbn([], torch.ones(1, 1), [], [], "squared") == 0


def test_class_weights_sum_to_one_in_each_class_of_unequal_size() -> None:
    weights = weights_of()
    rows = class_weight_matrix(LABELS, weights)
    assert rows.shape == (3, 7)
    for row, label in zip(rows, (0, 4, 9), strict=True):
        member = label == LABELS
        torch.testing.assert_close(row[member], weights[member] / weights[member].sum())
        assert (row[~member] == 0).all()
    torch.testing.assert_close(rows.sum(1), torch.ones(3, dtype=torch.float64))
    assert class_weight_matrix(torch.tensor([1, 1]), torch.tensor([0.0, 2.0])).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("bad", [[-0.1, 1.0], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_weights_that_cannot_be_normalised_are_refused(bad: list[float]) -> None:
    with pytest.raises(DDBenchError, match="finite and not negative"):
        class_weight_matrix(torch.tensor([0, 0]), torch.tensor(bad))


def test_wrong_forms_and_lengths_are_refused() -> None:
    x, row = draw(2, 3, 4, 4), torch.full((1, 2), 0.5)
    with pytest.raises(DDBenchError, match="unknown form of a loss term 'cubed'"):
        feature_match(x, x, "cubed")  # type: ignore[arg-type]
    with pytest.raises(DDBenchError, match="unknown form"):
        pcbn([x], row, [draw(1, 3)], [draw(1, 3)], "cubed")  # type: ignore[arg-type]
    with pytest.raises(DDBenchError, match="2 BatchNorm inputs, but 1 means and 1 variances"):
        pcbn([x, x], row, [draw(1, 3)], [draw(1, 3)], "norm")
    with pytest.raises(DDBenchError, match="0 BatchNorm inputs, but 1 means"):
        global_bn([], [draw(3)], [draw(3)])


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
        found = gaussian_mmd(x, y, BANDWIDTHS, unbiased=unbiased)
        error = float(found.std()) / count**0.5
        assert error < min(0.05 * expected, 0.25 * bias)
        assert float(found.mean()) == pytest.approx(target, abs=4 * error)


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
    found = gaussian_mmd(x, y, scales, y_weights=weights)
    own = gaussian_kernel_mean(y, scales, weights)
    assert found.shape == (2, 3)
    torch.testing.assert_close(gaussian_mmd(x, y, scales, y_weights=weights, y_kernel_mean=own), found)
    for i, j in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        alone = gaussian_mmd(x[i, j], y[i, j], scales[i, j].tolist(), y_weights=weights[i, j])
        torch.testing.assert_close(alone, found[i, j])
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


def test_mean_match_is_the_mmd_of_the_linear_kernel() -> None:
    x, y = draw(5, 3), draw(4, 3, seed=1)
    means = [[float(a @ b) for a in p for b in q] for p, q in ((x, x), (y, y), (x, y))]
    expected = sum(means[0]) / 25 + sum(means[1]) / 16 - 2 * sum(means[2]) / 20
    assert float(mean_match(x, y)) == pytest.approx(expected, rel=1e-12)


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
        with pytest.raises(DDBenchError, match="unbiased MMD is for uniform weights"):
            gaussian_mmd(x, y, BANDWIDTHS, unbiased=True, **weights)
    with pytest.raises(DDBenchError, match="two samples a side"):
        gaussian_mmd(x[:1], y, BANDWIDTHS, unbiased=True)
    for bandwidths in ([1.0, 0.0], [float("nan")]):
        with pytest.raises(DDBenchError, match="must be positive"):
            gaussian_mmd(x, y, bandwidths)
    with pytest.raises(DDBenchError, match="median distance of 5 samples is 0"):
        median_bandwidths(torch.ones(5, 2))
    with pytest.raises(DDBenchError, match="at least two samples"):
        median_bandwidths(x[:1])
