"""The optimisers of the training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from ddbench.api.settings import TrainingSettings

_TO_CHANNELS_LAST = (0, 2, 3, 1)
_TO_CHANNELS_FIRST = (0, 3, 1, 2)


def build_optimizer(network: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Builds the optimiser of a network: SGD with momentum, or AdamW with betas (0.9, 0.999).

    Args:
        network: The network, on its device.
        settings: The optimiser's name and hyper-parameters. `decay_vectors=False` excludes parameters of fewer than two
            dimensions (biases, norm scales) from weight decay.

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
    for parameter in network.parameters():
        (decayed if settings.decay_vectors or parameter.ndim >= 2 else undecayed).append(parameter)
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
    _avoid_copies(optimizer)
    return optimizer


def _avoid_copies(optimizer: torch.optim.Optimizer) -> None:
    """Avoids the copies that a step on a CPU makes of channels-last weights. The numbers stay the same.

    PyTorch's fused optimisers copy every tensor that is not contiguous, and copy it back. A channels-last weight is
    contiguous if its channels are also the last dimension of its shape. The update is elementwise, so the weights have
    that shape during the step only. An optimiser's own hooks run directly before and after the step, so other hooks do
    not see that shape.
    """
    permuted: list[nn.Parameter] = []

    def before(*_: Any) -> None:
        permuted[:] = [p for group in optimizer.param_groups for p in group["params"] if _is_copied(p)]
        for parameter in permuted:
            _permute(optimizer, parameter, _TO_CHANNELS_LAST)

    def after(*_: Any) -> None:
        for parameter in permuted:
            _permute(optimizer, parameter, _TO_CHANNELS_FIRST)

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def _is_copied(parameter: nn.Parameter) -> bool:
    channels_last = parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
    return parameter.device.type == "cpu" and channels_last and not parameter.is_contiguous()


def _permute(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, order: tuple[int, ...]) -> None:
    """Permutes a parameter with its gradient and its state."""
    gradient, parameter.grad = parameter.grad, None
    parameter.data = parameter.data.permute(order)
    if gradient is not None:
        parameter.grad = gradient.permute(order)
    state = optimizer.state[parameter]
    state |= {name: value.permute(order) for name, value in state.items() if value is not None and value.ndim == 4}
