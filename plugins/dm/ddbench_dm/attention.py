"""DataDAM's embedding: attention maps of the feature maps, and the input of the classifier."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ddbench.api import DDBenchError
from ddbench_dm.matching import embedding

if TYPE_CHECKING:
    from ddbench_dm.matching import Embed

SCALE = 100.0
"""The factor of the whole loss in the released code."""


def attention(features: Tensor, power: float) -> Tensor:
    """Computes the attention map of each image: the sum over channels of |features|^power, with norm 1 (DataDAM).

    Args:
        features: Feature maps [B, C, H, W].
        power: The exponent.

    Returns:
        The maps [B, H * W] in float32 or float64. A map of zeros stays 0.

    Example:
        >>> attention(torch.tensor([[[[1.0, 2.0]], [[2.0, 2.0]]]]), power=2)
        tensor([[0.5300, 0.8480]])
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return nn.functional.normalize(features.abs().pow(power).sum(1).flatten(1))


def attention_embedding(network: nn.Module, power: float, output_weight: float) -> Embed:
    """Returns a function that computes attention maps and the input of the final classifier, as one vector.

    The attention maps are those of the outputs of all ReLUs but the last. They are scaled by 10, and the input of the
    classifier by 10 sqrt(output_weight). The squared distance of the means of two sets of vectors is therefore the loss
    of DataDAM's released code for one class: 100 times the sum over layers of the squared distances of the mean
    attention maps, plus 100 output_weight times the squared distance of the mean outputs.

    Args:
        network: The network, changed in place; see `embedding`.
        power: The exponent of the attention maps.
        output_weight: lambda, the weight of the output.

    Returns:
        A function that returns vectors [B, d] in float32 or float64. It raises DDBenchError if the network has fewer
        than two ReLUs.
    """
    outputs: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _, __, output: outputs.append(output))
    embed = embedding(network)

    def embed_with_attention(images: Tensor) -> Tensor:
        outputs.clear()
        output = math.sqrt(SCALE * output_weight) * embed(images)
        if len(outputs) < 2:
            raise DDBenchError("datadam matches the output of every ReLU but the last: take a network with two or more")
        maps = [math.sqrt(SCALE) * attention(features, power) for features in outputs[:-1]]
        outputs.clear()
        return torch.cat([*maps, output], 1)

    return embed_with_attention
