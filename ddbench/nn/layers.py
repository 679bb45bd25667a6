"""Finds layers of a network: the final classifier, BatchNorm layers, numbered layers."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ddbench.core.errors import DDBenchError

SHORTCUTS = {"downsample", "shortcut"}
"""Module names of shortcut branches in the ResNets of torchvision and timm."""


def final_classifier(network: nn.Module) -> tuple[str, nn.Linear]:
    """Finds the linear layer that computes the logits: timm's `get_classifier`, else the last linear layer.

    Args:
        network: A classifier.

    Returns:
        The name of the layer and its module.

    Raises:
        DDBenchError: The logits come from something else, such as a convolution or two averaged heads.

    Example:
        >>> final_classifier(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)))
        ('2', Linear(in_features=4, out_features=3, bias=True))
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
    """Finds the BatchNorm layers of a network.

    Args:
        network: Any network.

    Returns:
        The layers by name, in the order of definition.

    Example:
        >>> list(batch_norms(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))))
        ['1']
    """
    return {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}


@contextlib.contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Normalises with the mean and the variance of each batch inside the block, in place of the running statistics.

    The running statistics do not change. Other layers, such as dropout, stay as they are.

    Args:
        network: A network in evaluation mode.

    Example:
        >>> import torch
        >>> layer = nn.BatchNorm1d(1, eps=1e-12).eval()
        >>> with batch_statistics(layer), torch.no_grad():
        ...     layer(torch.tensor([[1.0], [3.0]])).flatten()
        tensor([-1.,  1.])
    """
    before = [(layer, layer.training, layer.track_running_stats) for layer in batch_norms(network).values()]
    try:
        for layer, *_ in before:
            layer.training, layer.track_running_stats = True, False
        yield
    finally:
        for layer, training, tracks in before:
            layer.training, layer.track_running_stats = training, tracks


def weighted_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Finds the convolutions and linear layers outside of shortcuts. A ResNet-18 has 18 of them.

    Args:
        network: Any network.

    Returns:
        The layers by name, in the order of definition. Layer n is the n-th, from 1; the last is the classifier of a
        ResNet.

    Example:
        >>> list(weighted_layers(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))))
        ['0', '3']
    """
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and SHORTCUTS.isdisjoint(name.split("."))
    }


def check_layer(layer: int, count: int, arch: str) -> None:
    """Checks the number of a layer.

    Args:
        layer: Number of the layer, as in `weighted_layers`.
        count: Number of weighted layers of the network.
        arch: Name of the network, for the message.

    Raises:
        DDBenchError: The network has no layer of this number.
    """
    if not 1 <= layer <= count:
        raise DDBenchError(f"there is no layer {layer}: {arch} has layers 1 to {count}")
