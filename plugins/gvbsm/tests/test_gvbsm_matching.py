"""The loss of G-VBSM: each term by hand in float64."""

from __future__ import annotations

import math

import pytest
import torch
from ddbench_gvbsm import GVBSM
from ddbench_gvbsm.density import density
from ddbench_gvbsm.matching import StatisticsMatch, Targets, all_statistics, moving_average
from ddbench_gvbsm.statistics import TENSORS
from torch import Tensor

from ddbench.nn import TappedNetwork, build_network, collect_inputs, convolutions

SIZE = 8


@pytest.fixture(scope="module")
def teacher() -> TappedNetwork:
    network = build_network("convnet-bn-d2", num_classes=3, image_size=SIZE).double()
    for number, layer in enumerate(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        layer.running_mean.normal_(generator=torch.Generator().manual_seed(number))
        layer.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(number))
    return TappedNetwork(network)


def images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def real_statistics(teacher: TappedNetwork) -> dict[str, Tensor]:
    collected = collect_inputs(teacher, [images(5, 1), images(3, 2)], convolutions(teacher.network), 4, "exact")
    return {
        f"{name}/{kind}": value
        for name, (channels, patches) in collected.items()
        for kind, value in zip(TENSORS, (*channels, *patches), strict=True)
    }


def match(teacher: TappedNetwork, state: dict[str, Tensor], **settings: float | str) -> StatisticsMatch:
    method = GVBSM(patch=4, **settings)
    targets = [Targets(all_statistics(teacher, real_statistics(teacher)))]
    return StatisticsMatch(method, teacher, targets, state, "0/", torch.device("cpu"))


def layer_inputs(teacher: TappedNetwork, view: Tensor) -> dict[str, Tensor]:
    """The inputs of the layers of a ConvNet, computed layer by layer."""
    inputs = {}
    for name, layer in teacher.network.features.named_children():
        inputs[f"features.{name}"] = view
        view = layer(view)
    return inputs


def by_hand(teacher: TappedNetwork, view: Tensor, first_scale: float) -> Tensor:
    """The distance of one view without moving averages, with loops over channels and patches."""
    real, inputs, total = real_statistics(teacher), layer_inputs(teacher, view), torch.zeros((), dtype=torch.float64)
    for name in ("features.0", "features.1", "features.4", "features.5"):
        x, size = inputs[name], inputs[name].shape[-1]
        channels = [x[:, c] for c in range(x.shape[1])]
        patches = [x[:, :, i : i + 4, j : j + 4] for i in range(0, size, 4) for j in range(0, size, 4)]
        if name in ("features.1", "features.5"):
            layer = teacher.network.get_submodule(name)
            groups = [(channels, layer.running_mean, layer.running_var)]
        else:
            means, variances, patch_means, patch_variances = (real[f"{name}/{kind}"] for kind in TENSORS)
            groups = [(channels, means, variances), (patches, patch_means, patch_variances)]
        for parts, means, variances in groups:
            mean_error = torch.stack([part.mean() for part in parts]) - means
            variance_error = torch.stack([part.var(correction=0) for part in parts]) - variances
            size_of_errors = mean_error.square().sum().sqrt() + variance_error.square().sum().sqrt()
            total = total + (first_scale if name == "features.0" else 1.0) * size_of_errors
    return total


def test_the_distance_is_that_of_channels_and_patches_at_every_layer_with_its_gradient(teacher: TappedNetwork) -> None:
    view, copy = (images(4, 7).requires_grad_() for _ in range(2))
    logits, distance = match(teacher, {}, drop=0.0, first_scale=10.0).distance(view, "fp32", torch.Generator())
    expected = by_hand(teacher, copy, 10.0)
    assert float(distance.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    distance.backward()
    expected.backward()
    torch.testing.assert_close(view.grad, copy.grad, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(logits, teacher(view).logits)


def test_a_moving_average_is_compared_and_its_gradient_is_that_of_the_present_value(teacher: TappedNetwork) -> None:
    first, second = images(4, 7), images(4, 8)
    state: dict[str, Tensor] = {}
    averaged = match(teacher, state, drop=0.0, ema=0.8)
    averaged.distance(first, "fp32", torch.Generator())
    averaged.distance(second, "fp32", torch.Generator())
    means = [layer_inputs(teacher, view)["features.4"].mean((0, 2, 3)) for view in (first, second)]
    torch.testing.assert_close(state["0/features.4/0/mean"], 0.8 * means[0] + 0.2 * means[1])
    zero: dict[str, Tensor] = {}
    match(teacher, zero, drop=0.0, ema=0.8, ema_start="zero").distance(first, "fp32", torch.Generator())
    torch.testing.assert_close(zero["0/features.4/0/mean"], 0.2 * means[0])

    value = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    average = moving_average({"a": torch.tensor([1.0], dtype=torch.float64)}, "a", value, 0.8, "first")
    assert average.item() == pytest.approx(0.8 * 1 + 0.2 * 3)
    average.square().sum().backward()
    assert value.grad is not None
    assert value.grad.item() == pytest.approx(2 * 1.4)  # not times 0.2


def test_convolutions_are_left_out_at_random_and_batch_norms_never(teacher: TappedNetwork) -> None:
    view, draws, kept = images(2, 3), torch.Generator().manual_seed(0), 0
    for _ in range(50):
        state: dict[str, Tensor] = {}
        match(teacher, state, drop=0.4).distance(view, "fp32", draws)
        assert {"0/features.1/0/mean", "0/features.5/0/mean"} <= state.keys()
        kept += len({name for name in state if name.endswith("/1/mean")})
    assert 0.45 < kept / 100 < 0.75


def test_density_is_the_divergence_of_the_eigenvalues_of_each_classs_gram_matrix() -> None:
    rows = torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, 0.0]], dtype=torch.float64)
    flat = torch.zeros(3, 3 * 32 * 32, dtype=torch.float64)
    flat[:, :2] = rows
    labels = torch.tensor([0, 0, 1])
    # The Gram matrix [[1, 1], [1, 2]] has the eigenvalues (3 -+ sqrt 5) / 2; one image has no spread.
    values = [(3 - math.sqrt(5)) / 2, (3 + math.sqrt(5)) / 2]

    def softmax(numbers: list[float]) -> list[float]:
        total = sum(math.exp(number) for number in numbers)
        return [math.exp(number) / total for number in numbers]

    target, actual = softmax([value / 4 for value in values]), softmax(values)
    expected = sum(t * math.log(t / a) for t, a in zip(target, actual, strict=True))
    pictures = flat.reshape(3, 3, 32, 32).requires_grad_()
    result = density(pictures, labels, 4.0)
    assert float(result.detach()) == pytest.approx(expected, rel=1e-9)
    result.backward()
    # d KL / d eigenvalue = softmax(l) - target, and d eigenvalue / d x_i = 2 u_i sum_j u_j x_j for the eigenvector u.
    gradient = torch.zeros(2, 2, dtype=torch.float64)
    for value, difference in zip(values, (a - t for t, a in zip(target, actual, strict=True)), strict=True):
        u = torch.tensor([1.0, value - 1.0], dtype=torch.float64)
        u = u / u.norm()
        gradient += difference * 2 * u[:, None] * (u @ rows[:2])
    assert pictures.grad is not None
    torch.testing.assert_close(pictures.grad.flatten(1)[:2, :2], gradient)
    assert not pictures.grad[2].any()
