"""The optimisers of training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from ddbench.api.settings import TrainingSettings

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
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, fused=True)
    else:
        optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    _without_copies(optimizer)
    return optimizer


def _without_copies(optimizer: torch.optim.Optimizer) -> None:
    """Spares its steps, to the same numbers, the copies of channels-last weights on a CPU.

    PyTorch's fused optimisers copy there whatever is not contiguous, and back. What they do is elementwise, so for the
    step alone the weights have the channels last in their shape too, which is contiguous. Other hooks do not see that:
    an optimiser's own are the last before the step and the first after it.
    """
    turned: list[nn.Parameter] = []

    def before(*_: Any) -> None:
        turned[:] = [p for group in optimizer.param_groups for p in group["params"] if _turns(p)]
        for parameter in turned:
            _turn(optimizer, parameter, CHANNELS_LAST)

    def after(*_: Any) -> None:
        for parameter in turned:
            _turn(optimizer, parameter, BACK)

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


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
