"""Moments taken as activations pass, and the gradient that is added to the BatchNorm layer's own, in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddbench.api.settings import RecoverSettings
from ddbench.api.teacher import Output
from ddbench.api.units import Slot, Unit
from ddbench.data.dataset import Dataset
from ddbench.distillation.context import DistillContext
from ddbench.distillation.recover import recover
from ddbench.losses import batchnorm
from ddbench.nn import cpu
from ddbench.nn.batchnorm_moments import Moments, moments, normalise_with_moments, tap_moments
from ddbench.nn.build import build_network
from ddbench.nn.taps import TappedNetwork
from ddbench.storage.checkpoint import Checkpoint

FORMATS = (torch.contiguous_format, torch.channels_last)


def tapped(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the layer gives, mean and variance: the moments taken before it."""
    through, actual = tap_moments(x)
    return layer(through), actual.mean, actual.variance


def in_one_pass(layer: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same, all at once."""
    scale = layer.weight / (layer.running_var + layer.eps).sqrt()
    out, actual = normalise_with_moments(x, scale, layer.bias - layer.running_mean * scale)
    return out, actual.mean, actual.variance


Way = Callable[[nn.Module, Tensor], tuple[Tensor, Tensor, Tensor]]


WAYS = pytest.mark.parametrize("way", [tapped, in_one_pass])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm(channels: int, dtype: torch.dtype) -> nn.Module:
    layer = nn.BatchNorm2d(channels).eval().requires_grad_(False).to(dtype)
    layer.running_mean, layer.running_var = draw(channels).to(dtype), draw(channels).exp().to(dtype)
    return layer


def loss(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Of what the layer gives, and of the moments: a gradient through each."""
    return x.sin().sum() + (mean.cos() * 3).sum() + (variance.square() * x.shape[2] * x.shape[3]).sum()


def brute(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and gradient of `loss`, image by image in float64, by autograd."""
    leaf = x.detach().double().requires_grad_()
    mean = torch.stack([image.flatten(1).sum(1) / image[0].numel() for image in leaf])
    apart = leaf - mean[:, :, None, None]
    variance = torch.stack([image.flatten(1).square().sum(1) / image[0].numel() for image in apart])
    (gradient,) = torch.autograd.grad(loss(layer(leaf), mean, variance), leaf)
    return mean.detach(), variance.detach(), gradient


@WAYS
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("part_size", [1, 100, 2**20])
def test_moments_and_their_gradient_in_both_layouts_and_parts_of_any_size(
    memory_format: torch.memory_format, part_size: int, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "PART_SIZE", part_size)
    x = (draw(5, 6, 4, 3) + 2).float().contiguous(memory_format=memory_format)
    expected = brute(norm(6, torch.float64), x)
    leaf = x.clone().requires_grad_()
    out, *actual = way(norm(6, torch.float32), leaf)
    torch.testing.assert_close(out, norm(6, torch.float32)(x))
    (gradient,) = torch.autograd.grad(loss(out, *actual), leaf)
    assert gradient.is_contiguous(memory_format=memory_format)
    for got, theirs in zip((*actual, gradient), expected, strict=True):
        torch.testing.assert_close(got.double(), theirs, rtol=1e-5, atol=2e-5)


@WAYS
@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 7), (4, 6, 4, 3, 2)])
def test_moments_of_activations_without_or_with_other_positions(shape: tuple[int, ...], way: Way) -> None:
    x, layer = draw(*shape).transpose(0, -1).contiguous().transpose(0, -1).requires_grad_(), norm(6, torch.float64)
    plain = (x[..., None] if x.ndim == 2 else x).flatten(2)
    expected = plain.mean(2), plain.var(2, correction=0)
    (by_autograd,) = torch.autograd.grad(sum(value.sin().sum() for value in expected), x)  # type: ignore[arg-type]
    _, *actual = way(nn.Identity() if way is tapped else layer, x)
    torch.testing.assert_close(tuple(actual), expected)
    (gradient,) = torch.autograd.grad(sum(value.sin().sum() for value in actual), x)  # type: ignore[arg-type]
    torch.testing.assert_close(gradient, by_autograd)


@WAYS
@pytest.mark.parametrize("memory_format", FORMATS)
def test_moments_of_bf16_are_those_of_its_values_in_float32(memory_format: torch.memory_format, way: Way) -> None:
    x = (draw(4, 6, 8, 8) + 1).bfloat16().contiguous(memory_format=memory_format).requires_grad_()
    mean, variance, expected = brute(norm(6, torch.float64), x)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        out, *actual = way(norm(6, torch.float32), x)
        value = loss(out, *actual)
    torch.testing.assert_close((actual[0].double(), actual[1].double()), (mean, variance), rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(value, x)
    assert gradient.dtype == torch.bfloat16
    assert float((gradient.double() - expected).abs().max() / expected.abs().max()) < 0.01


@WAYS
@pytest.mark.parametrize("used", [(True, True), (True, False), (False, True), (False, False)])
def test_gradients_that_are_not_asked_for_are_left_out(used: tuple[bool, bool], way: Way) -> None:
    layer, mean_too, variance_too = norm(3, torch.float64), *used

    def through_all(x: Tensor) -> Tensor:
        out, mean, variance = way(layer, x)
        parts = [out.sin().sum(), *([mean.sin().sum()] if mean_too else [])]
        return torch.stack([*parts, *([variance.square().sum()] if variance_too else [])]).sum()

    x = draw(2, 3, 2, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradcheck(through_all, (x,))
    assert torch.autograd.gradcheck(lambda x: moments(x)[1 - mean_too], (x,))


def test_a_network_gives_the_moments_of_what_it_would_have_given() -> None:
    teacher = TappedNetwork(build_network("resnet18", 3, 16)).to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    full, short = teacher(images, layer=5), teacher(images, layer=5, moments=True)
    torch.testing.assert_close((full.logits, full.features), (short.logits, short.features), rtol=1e-4, atol=1e-5)
    gradients = []
    for output in (full, short):
        values = [moments(x) for x in output.bn_inputs]
        value = sum((mean.sin().sum() + variance.square().sum() for mean, variance in values), output.logits.sum())
        gradients.append(torch.autograd.grad(value, images)[0])
    assert all(isinstance(moments, Moments) for moments in short.bn_inputs)
    assert len(short.bn_inputs) == len(full.bn_inputs) == 20
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    assert teacher(images, bn=False, moments=True).bn_inputs == []


def test_an_objective_that_asks_for_more_than_moments_is_given_the_inputs(
    digits_at: Callable[..., Dataset], tmp_path: Path
) -> None:
    """The same loss from the inputs themselves and from their moments: the same images; a fault of its own is told."""
    teacher = TappedNetwork(build_network("convnet-bn-d2", 10, 8, seed=1))
    unit = Unit(0, tuple(Slot(label, 0) for label in range(4)))
    rest: dict[str, Any] = {"cached": lambda *_: pytest.fail("not asked for"), "statistics": None, "timing": {}}
    task = DistillContext(
        **rest,
        dataset=digits_at(8),
        ipc=1,
        seed=2,
        device=torch.device("cpu"),
        precision="fp32",
        checkpoint=Checkpoint(tmp_path / "slot.safetensors"),
        checkpoint_every=100,
        report=lambda *_, **__: None,
        _teacher=lambda: teacher,
    )
    means, variances = teacher.running_statistics()
    uses_moments: list[bool] = []

    def by_moments(output: Output) -> dict[str, Tensor]:
        uses_moments.append(isinstance(output.bn_inputs[0], Moments))
        return {"bn": batchnorm.global_bn(output.bn_inputs, means, variances, 1.0, "squared")}

    def by_inputs(output: Output) -> dict[str, Tensor]:
        uses_moments.append(isinstance(output.bn_inputs[0], Moments))
        total = torch.zeros(())
        for x, mean, variance in zip(output.bn_inputs, means, variances, strict=True):
            total = total + (x.mean((0, 2, 3)) - mean).square().sum()
            total = total + (x.var((0, 2, 3), correction=0) - variance).square().sum()
        return {"bn": total}

    def faulty(output: Output) -> dict[str, Tensor]:
        return {"bn": output.bn_inputs[0].no_such_thing()}  # type: ignore[operator]

    settings = RecoverSettings(steps=4, jitter=0)
    actual = [recover(task, unit, objective, task.noise(unit), settings) for objective in (by_moments, by_inputs)]
    torch.testing.assert_close(*actual, rtol=0, atol=1e-4)
    assert uses_moments == [True] * 4 + [True] + [False] * 4
    with pytest.raises(AttributeError, match="'Tensor' object has no attribute 'no_such_thing'"):
        recover(task, unit, faulty, task.noise(unit), settings)


SHAPES = [(7, 3, 5, 4), (7, 2, 6), (7, 5)]


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
