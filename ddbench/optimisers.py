"""The optimisers of training, and a step of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from ddbench.config import TrainingSettings

CHANNELS_LAST = (0, 2, 3, 1)
BACK = (0, 3, 1, 2)


def optimizer_for(network: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW (0.9, 0.999) over the network's parameters, at the full learning rate.

    `decay_vectors=False` leaves parameters of fewer than two dimensions (biases, norm scales) without weight
    decay.
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in network.parameters():
        (decayed if settings.decay_vectors or parameter.ndim >= 2 else free).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay}
        for parameters, decay in ((decayed, settings.weight_decay), (free, 0.0))
        if parameters
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def step(optimizer: torch.optim.Optimizer) -> None:
    """`optimizer.step()`, to the same numbers, without copies of channels-last weights on a CPU.

    PyTorch's fused optimisers copy there whatever is not contiguous, and back. What they do is elementwise, so for the
    step the weights are shown to them with the channels last in their shape too, which is contiguous.
    """
    turned = [p for group in optimizer.param_groups for p in group["params"] if _turns(p)]
    for parameter in turned:
        _turn(optimizer, parameter, CHANNELS_LAST)
    try:
        optimizer.step()
    finally:
        for parameter in turned:
            _turn(optimizer, parameter, BACK)


def _turns(parameter: nn.Parameter) -> bool:
    last = parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
    return parameter.device.type == "cpu" and last and not parameter.is_contiguous()


def _turn(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, order: tuple[int, ...]) -> None:
    gradient, parameter.grad = parameter.grad, None
    parameter.data = parameter.data.permute(order)
    if gradient is not None:
        parameter.grad = gradient.permute(order)
    state = optimizer.state[parameter]
    state |= {name: value.permute(order) for name, value in state.items() if value is not None and value.ndim == 4}
