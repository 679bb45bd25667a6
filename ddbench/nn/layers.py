"""Networks: built by name and seed, loaded from checkpoints, and tapped for features and BatchNorm inputs."""

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ddbench.core.errors import DDBenchError

SHORTCUTS = {"downsample", "shortcut"}  # ResNets of torchvision and timm


def final_classifier(network: nn.Module) -> tuple[str, nn.Linear]:
    """Name and module of the linear layer that makes the logits: timm's `get_classifier`, else the last one.

    Raises DDBenchError where the logits come from something else (a convolution, two averaged heads).
    """
    linear = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    get_classifier: Any = getattr(network, "get_classifier", None)
    if get_classifier is not None:
        head = get_classifier()
        linear = [(name, module) for name, module in linear if module is head]
    if not linear:
        raise DDBenchError(f"{type(network).__name__} has no final linear classifier to take features from")
    return linear[-1]


def batch_norms(network: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm layers of a network by name, in the order in which it defines them."""
    return {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}


def weighted_layers(network: nn.Module) -> dict[str, nn.Module]:
    """What the number in "ResNet-18" counts: convolutions and linear layers by name, without those of shortcuts.

    In the order in which the network defines them. Layer n is the n-th, from 1; the last one is a ResNet's classifier.
    """
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and SHORTCUTS.isdisjoint(name.split("."))
    }


def check_layer(layer: int, count: int, arch: str) -> None:
    """Raises DDBenchError where a network of `count` weighted layers, called `arch`, has none of this number."""
    if not 1 <= layer <= count:
        raise DDBenchError(f"there is no layer {layer}: {arch} has layers 1 to {count}")
