"""The residual networks of Minimax Diffusion: parameter counts by hand, shapes, and pooling for strides."""

import pytest
import torch
from torch import nn

from ddbench.core.errors import DDBenchError
from ddbench.nn.build import build_network


def test_the_parameters_are_those_of_the_published_code() -> None:
    """A 3x3 convolution a -> b has 9 a b weights, a norm 2 a, a shortcut a -> b has a b and a norm."""
    first = 9 * 64 * 64 * 2 + 2 * (2 * 64)
    others = sum(9 * a * 2 * a + 9 * (2 * a) ** 2 + 2 * 2 * 2 * a + a * 2 * a + 2 * 2 * a for a in (64, 128, 256))
    head = 512 * 10 + 10
    small, large = 9 * 3 * 64 + 2 * 64, 49 * 3 * 64 + 2 * 64
    ten = first + others + head
    assert (ten + small, ten + large) == (4903242, 4910922)  # of the code, with 10 classes at 64 and 224 px
    second = sum(9 * a * a * 2 + 2 * 2 * a for a in (64, 128, 256, 512))
    for kind in ("resnetap", "resnet-in"):
        for depth, size, expected in (
            *((10, 64, ten + small), (10, 128, ten + small), (10, 224, ten + large)),
            (18, 64, ten + second + small),
        ):
            network = build_network(f"{kind}-{depth}", 10, size)
            assert sum(p.numel() for p in network.parameters()) == expected, (kind, depth, size)


@pytest.mark.parametrize("name", ["resnetap-10", "resnet-in-18"])
@pytest.mark.parametrize(("size", "sides"), [(32, [32, 16, 8, 4]), (112, [56, 28, 14, 7]), (224, [56, 28, 14, 7])])
def test_the_sides_of_the_maps(name: str, size: int, sides: list[int]) -> None:
    network, seen = build_network(name, 7, size), []
    for stage in range(1, 5):
        layer = network.get_submodule(f"layer{stage}")
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[-1]))
    assert network(torch.zeros(1, 3, size, size)).shape == (1, 7)
    assert seen == sides


def test_resnetap_has_no_stride_and_only_instance_norms() -> None:
    for size in (32, 112, 224):
        network = build_network("resnetap-10", 10, size)
        strides = {module.stride for module in network.modules() if isinstance(module, nn.Conv2d)}
        assert strides == {(1, 1)}
        assert not any(isinstance(module, nn.BatchNorm2d | nn.MaxPool2d) for module in network.modules())


def test_a_pooled_block_is_its_formula() -> None:
    """ReLU, then average pooling, then the second convolution; the shortcut is pooled before its norm."""
    block = build_network("resnetap-10", 10, 32, seed=3).get_submodule("layer2.0")
    parts = {name: parameter.detach() for name, parameter in block.named_parameters()}
    x = torch.randn(2, 64, 8, 8, generator=torch.Generator().manual_seed(0))

    def halved(maps: torch.Tensor) -> torch.Tensor:
        return maps.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))

    def normed(maps: torch.Tensor) -> torch.Tensor:
        return (maps - maps.mean((2, 3), keepdim=True)) / (maps.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()

    inner = halved(normed(nn.functional.conv2d(x, parts["conv1.weight"], padding=1)).relu())
    inner = normed(nn.functional.conv2d(inner, parts["conv2.1.weight"], padding=1))
    shortcut = normed(halved(nn.functional.conv2d(x, parts["downsample.0.weight"])))
    torch.testing.assert_close(block(x), (inner + shortcut).relu(), rtol=1e-4, atol=1e-4)


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(DDBenchError, match="network 'resnetap-10' cannot be built for 8-pixel images"):
        build_network("resnetap-10", 10, 8)
