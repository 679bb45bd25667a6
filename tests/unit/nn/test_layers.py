"""Layers that are found in a network."""

import pytest

from ddbench.core.errors import DDBenchError
from ddbench.nn.build import build_network
from ddbench.nn.taps import TappedNetwork


def test_networks_without_one_linear_classifier_are_refused() -> None:
    for name in ("squeezenet1_0", "timm/resnetv2_50", "timm/deit_tiny_distilled_patch16_224"):
        network = build_network(name, 3, 64)
        with pytest.raises(DDBenchError, match="no final linear classifier"):
            TappedNetwork(network)
