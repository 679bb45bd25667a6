"""The optimisers of the training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from ddbench.api.settings import TrainingSettings


def build_optimizer(network: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Builds the optimiser of a network: SGD with momentum, or AdamW with betas (0.9, 0.999).

    Args:
        network: The network, on its device.
        settings: The optimiser's name and hyper-parameters. `decay_vectors=False` excludes two kinds of parameters from
            weight decay, as the code of SRe2L does (`validate/utils.py`): those of fewer than two dimensions (biases,
            norm scales), and those whose name does not contain "weight" (`pos_embed` and `cls_token` of a ViT).

    Returns:
        The optimiser, at the full learning rate.

    Example:
        >>> from ddbench.api.settings import TrainingSettings
        >>> settings = TrainingSettings(optimizer="adamw", weight_decay=0.01, decay_vectors=False)
        >>> [group["weight_decay"] for group in build_optimizer(nn.Linear(2, 1), settings).param_groups]
        [0.01, 0.0]
    """
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        is_weight = "weight" in name and parameter.ndim >= 2
        (decayed if settings.decay_vectors or is_weight else undecayed).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay}
        for parameters, decay in ((decayed, settings.weight_decay), (undecayed, 0.0))
        if parameters
    ]
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, fused=True)
    else:
        optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    return optimizer
