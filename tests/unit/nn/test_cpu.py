"""A strided first convolution: the same bits, and the gradient of autograd."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ddbench.nn import compile, cpu
from ddbench.nn.build import build_network
from ddbench.nn.taps import TappedNetwork


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "height", "width"),
    [(7, 2, 3, 16, 16), (7, 2, 3, 13, 10), (3, 2, 0, 11, 12), (5, 3, 2, 20, 22), (4, 4, 0, 17, 16), (1, 2, 0, 9, 9)],
)
def test_gradient_of_a_strided_convolution(kernel: int, stride: int, padding: int, height: int, width: int) -> None:
    """Also where the last pixels are looked at by none, or partly by the padding."""
    layer = nn.Conv2d(3, 5, kernel, stride, padding, dtype=torch.float64).requires_grad_(False)
    assert cpu.is_strided_conv(layer)
    images = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    plain, ours = layer(images), cpu.strided_conv(layer, layer.forward, images)
    assert torch.equal(ours, plain)
    draws = torch.randn_like(plain)
    expected, actual = (torch.autograd.grad(out, images, draws)[0] for out in (plain, ours))
    torch.testing.assert_close(actual, expected)


def test_gradient_in_bf16_is_that_of_autograd() -> None:
    layer = nn.Conv2d(3, 8, 7, 2, 3).requires_grad_(False)
    images = torch.randn(2, 3, 16, 16, requires_grad=True)
    gradients = []
    for forward in (layer.forward, lambda x: cpu.strided_conv(layer, layer.forward, x)):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            out = forward(images)
        assert out.dtype == torch.bfloat16
        gradients.append(torch.autograd.grad(out.float().square().sum(), images)[0])
    assert gradients[1].dtype == torch.float32
    torch.testing.assert_close(*gradients, rtol=0.02, atol=0.02 * float(gradients[0].abs().max()))


def test_weights_that_train_keep_their_gradient() -> None:
    layer = nn.Conv2d(3, 8, 3, 2, 1)
    out = cpu.strided_conv(layer, layer.forward, torch.ones(1, 3, 8, 8))
    out.sum().backward()
    assert layer.weight.grad is not None
    assert float(layer.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("arch", "size", "name", "stands"),
    [("resnet18", 64, "conv1", True), ("resnet18", 32, "conv1", False), ("resnet18", 64, "layer2.0.conv1", False)],
)
def test_only_a_strided_convolution_of_images_is_one(arch: str, size: int, name: str, stands: bool) -> None:
    network = TappedNetwork(build_network(arch, 3, size)).network
    assert cpu.is_strided_conv(network.get_submodule(name)) is stands


@pytest.mark.slow
@pytest.mark.skipif(not compile.possible("cpu"), reason="no C++ compiler, or Python's headers are missing")
def test_compiled_it_is_the_same() -> None:
    layer = nn.Conv2d(3, 5, 7, 2, 3).requires_grad_(False)
    images = torch.randn(2, 3, 16, 16, requires_grad=True)
    compiled = torch.compile(lambda x: cpu.strided_conv(layer, layer.forward, x).sin().sum(), fullgraph=True)
    gradients = [torch.autograd.grad(value, images)[0] for value in (layer(images).sin().sum(), compiled(images))]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_it_can_be_differentiated_twice() -> None:
    layer = nn.Conv2d(3, 2, 3, 2, 1, dtype=torch.float64).requires_grad_(False)
    images = torch.randn(1, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: cpu.strided_conv(layer, layer.forward, x).sin(), (images,))
