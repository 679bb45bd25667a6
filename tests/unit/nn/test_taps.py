"""Features and BatchNorm inputs that are read while a network runs."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddbench.config.networks import CATALOG
from ddbench.core.errors import DDBenchError
from ddbench.nn.build import build_network
from ddbench.nn.layers import final_classifier
from ddbench.nn.taps import TappedNetwork

OTHER_FAMILIES = [
    "timm/resnet18d",
    "timm/mobilenetv3_small_100",
    "timm/efficientnet_b0",
    "googlenet",
    "vit_b_32",
]
LARGE = ["vgg11_bn", "resnet101", "vit_b_32"]
"""Networks that take more than about three seconds."""


def state_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name
        for name in [info.name for info in CATALOG] + OTHER_FAMILIES
    ],
)
def test_taps_give_what_feeds_the_classifier_and_each_batchnorm_in_forward_order(name: str) -> None:
    network = build_network(name, 7, 32)
    tapped = TappedNetwork(network)
    called: list[str] = []
    inputs: list[Tensor] = []

    def record(layer_name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        called.append(layer_name)
        inputs.append(args[0])

    for layer_name, layer in network.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.register_forward_pre_hook(partial(record, layer_name))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    output = tapped(images)
    assert torch.equal(final_classifier(network)[1](output.features), output.logits)
    assert output.features.shape == (2, tapped.feature_dim)
    assert output.logits.shape == (2, 7)
    assert tapped.bn_names == called
    assert all(a is b for a, b in zip(output.bn_inputs, inputs, strict=True))
    assert tapped(images, bn=False).bn_inputs == []


def test_resnet18_has_twenty_batchnorm_layers_and_convnet_none() -> None:
    assert len(TappedNetwork(build_network("resnet18", 10, 32)).bn_names) == 20
    assert TappedNetwork(build_network("convnet-d3", 10, 32)).bn_names == []


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18"])
def test_layers_of_a_resnet_are_those_that_its_name_counts(name: str) -> None:
    names = TappedNetwork(build_network(name, 10, 32)).layer_names
    blocks = [f"layer{stage}.{block}.conv{k}" for stage in range(1, 5) for block in (0, 1) for k in (1, 2)]
    assert names == ["conv1", *blocks, "fc"]
    assert len(names) == 18
    assert len(TappedNetwork(build_network(name.replace("18", "50"), 10, 32)).layer_names) == 50


def test_features_of_a_layer_are_the_means_of_what_feeds_it() -> None:
    """Against what hooks see of the modules before it, in float64."""
    network: Any = build_network("resnet18", 5, 16, seed=3).double()
    tapped = TappedNetwork(network)
    seen: dict[int, Tensor] = {}
    before = {5: network.layer1[1].bn1, 10: network.layer2, 15: network.layer4[0].bn1, 16: network.layer4[0]}
    for layer, module in {**before, 17: network.layer4[1].bn1, 18: network.layer4}.items():
        # A block's ReLU after its first norm has no output of its own to hook, for it serves the second one too.
        module.register_forward_hook(lambda _, args, out, layer=layer: seen.update({layer: out.relu()}))
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = tapped(images)
    for layer, width in ((5, 64), (10, 128), (15, 512), (16, 512), (17, 512), (18, 512)):
        output = tapped(images, layer=layer)
        means = torch.stack([torch.stack([channel.mean() for channel in image]) for image in seen[layer]])
        assert output.features.shape == (3, width)
        torch.testing.assert_close(output.features, means, rtol=1e-12, atol=1e-12)
        assert torch.equal(output.logits, plain.logits)
        assert torch.equal(output.features, plain.features) == (layer == 18)
        assert all(torch.equal(a, b) for a, b in zip(output.bn_inputs, plain.bn_inputs, strict=True))
    torch.testing.assert_close(tapped(images, layer=1).features, images.mean((2, 3)))


def test_a_layer_is_tapped_for_one_call_and_gives_a_gradient() -> None:
    tapped = TappedNetwork(build_network("convnet-d2", 3, 8))

    def hooks() -> int:
        return sum(len(module._forward_pre_hooks) for module in tapped.modules())

    before = hooks()
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    features = tapped(images, layer=2).features
    # Layer 2 sees four positions of each of its 128 channels through 2x2 pooling: their mean has a gradient.
    features.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    with torch.autocast("cpu", torch.bfloat16):
        assert tapped(images, layer=2).features.dtype == torch.float32
    with pytest.raises(RuntimeError):
        tapped(torch.zeros(2, 4, 8, 8), layer=2)
    assert hooks() == before
    assert tapped._inputs is None
    flat = tapped(images)
    assert torch.equal(tapped(images, layer=3).features, flat.features)
    assert flat.features.shape == (2, 128 * 4)


def test_a_layer_that_is_not_there_or_has_no_maps_is_refused() -> None:
    tapped = TappedNetwork(build_network("convnet-d2", 3, 8))
    for layer in (0, 4, -1):
        with pytest.raises(DDBenchError, match=f"there is no layer {layer}: ConvNet has layers 1 to 3"):
            tapped(torch.zeros(1, 3, 8, 8), layer=layer)
    transformer = TappedNetwork(build_network("vit_tiny_patch16_224", 3, 32))
    with pytest.raises(DDBenchError, match=r"layer 2 has an input of shape \[1, 5, 192\]: features need maps"):
        transformer(torch.zeros(1, 3, 32, 32), layer=2)


def test_a_tapped_network_is_frozen_stays_in_evaluation_mode_and_keeps_no_activation() -> None:
    network = build_network("resnet18", 3, 16)
    tapped = TappedNetwork(network).train()
    before = state_of(network)
    images = torch.randn(4, 3, 16, 16, requires_grad=True)
    output = tapped(images)
    output.logits.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in tapped.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert tapped._inputs is None


def test_running_statistics_are_the_layers_own() -> None:
    network = build_network("resnet18", 3, 16)
    network(torch.randn(8, 3, 16, 16))
    means, variances = TappedNetwork(network).running_statistics()
    assert [len(mean) for mean in means] == [len(variance) for variance in variances]
    assert torch.equal(means[0], network.get_buffer("bn1.running_mean"))
    assert torch.equal(variances[-1], network.get_buffer("layer4.1.bn2.running_var"))


@pytest.mark.slow
def test_tapping_survives_compilation_in_one_graph() -> None:
    tapped = TappedNetwork(build_network("resnet18", 3, 16))
    images = torch.randn(2, 3, 16, 16)
    compiled = torch.compile(tapped, fullgraph=True, backend="aot_eager")(images)
    for a, b in zip(compiled.bn_inputs, tapped(images).bn_inputs, strict=True):
        torch.testing.assert_close(a, b)
