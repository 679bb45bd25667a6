"""BatchNorm losses against brute force in float64, written from the equations of the paper with plain loops."""

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddbench.core.errors import DDBenchError
from ddbench.losses.batchnorm import class_moments, class_weight_matrix, global_bn, pcbn
from ddbench.losses.features import feature_match

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


def batch_and_targets() -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Inputs of layers of SHAPES, and a mean and a variance for each channel."""
    layers = [draw(*shape, seed=number) for number, shape in enumerate(SHAPES)]
    means = [draw(layer.shape[1], seed=10 + number) for number, layer in enumerate(layers)]
    variances = [draw(layer.shape[1], seed=20 + number) ** 2 for number, layer in enumerate(layers)]
    return layers, means, variances


def test_global_bn_is_the_sum_of_norms_over_the_whole_batch_with_the_first_layer_times_ten() -> None:
    layers, means, variances = batch_and_targets()
    expected = torch.zeros((), dtype=torch.float64)
    for number, layer in enumerate(layers):
        pooled = layer.transpose(0, 1).flatten(1)
        error = (pooled.mean(1) - means[number]).norm() + (pooled.var(1, correction=0) - variances[number]).norm()
        expected = expected + error * (10 if number == 0 else 1)
    torch.testing.assert_close(global_bn(layers, means, variances), expected)
    assert global_bn([layer.float() for layer in layers], means, variances).isfinite()


def test_global_bn_squared_is_pcbn_of_one_class_that_holds_the_batch() -> None:
    layers, means, variances = batch_and_targets()
    expected = torch.zeros((), dtype=torch.float64)
    for number, layer in enumerate(layers):
        pooled = layer.transpose(0, 1).flatten(1)
        error = (pooled.mean(1) - means[number]).square().sum()
        error = error + (pooled.var(1, correction=0) - variances[number]).square().sum()
        expected = expected + error * (10 if number == 0 else 1)
    torch.testing.assert_close(global_bn(layers, means, variances, form="squared"), expected)


@pytest.mark.parametrize("form", ["norm", "squared"])
def test_global_bn_and_its_gradient_equal_a_loop_over_channels(form: Form) -> None:
    """The mean and variance of each channel over images and positions in NumPy, and derivatives by differences."""

    def loop(values: list[np.ndarray]) -> float:
        total = 0.0
        for number, layer in enumerate(values):
            errors = [0.0, 0.0]
            for channel in range(layer.shape[1]):
                pixels = layer[:, channel].reshape(-1)
                mean = sum(pixels) / len(pixels)
                variance = sum((pixels - mean) ** 2) / len(pixels)
                errors[0] += (mean - float(means[number][channel])) ** 2
                errors[1] += (variance - float(variances[number][channel])) ** 2
            sizes = errors if form == "squared" else [error**0.5 for error in errors]
            total += (10 if number == 0 else 1) * sum(sizes)
        return total

    layers, means, variances = batch_and_targets()
    inputs = [layer.clone().requires_grad_() for layer in layers]
    value = global_bn(inputs, means, variances, form=form)
    arrays = [layer.numpy() for layer in layers]
    assert value.item() == pytest.approx(loop(arrays), rel=1e-12)
    for number, gradient in enumerate(torch.autograd.grad(value, inputs)):
        place = tuple(size // 2 for size in gradient.shape)
        ends = []
        for step in (1e-5, -1e-5):
            moved = [array.copy() for array in arrays]
            moved[number][place] += step
            ends.append(loop(moved))
        assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)


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
