"""An exponential moving average of a network's parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Keeps the exponential moving average of a network's parameters: average <- d average + (1 - d) parameters.

    `fit` starts it at the initial parameters, updates it after every optimiser step, measures with it, and returns the
    network with it. Buffers, such as the running statistics of BatchNorm, are not averaged: the network's own are used.
    Source: EDC (`shaoshitong/EDC`, `EMAMODEL` in the training scripts).

    Args:
        decay: d, at least 0 and below 1; 0 is the network itself.

    Attributes:
        parameters: The average of each parameter by name.

    Example:
        >>> network, average = nn.Linear(1, 1, bias=False), WeightAverage(0.75)
        >>> for weight in (0.0, 4.0, 8.0):
        ...     _ = network.weight.data.fill_(weight)
        ...     average.update(network)
        >>> average.parameters["weight"]
        tensor([[2.7500]])
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.parameters: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Moves the average towards the parameters of a network. The first update copies them.

        Args:
            network: The network after an optimiser step, or before the first one.
        """
        for name, parameter in network.named_parameters():
            if name in self.parameters:
                self.parameters[name].lerp_(parameter, 1 - self.decay)
            else:
                self.parameters[name] = parameter.detach().clone()

    @contextlib.contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """Gives a network the averaged parameters within a block, and its own after it.

        Args:
            network: The network.
        """
        own = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        self.copy_to(network)
        try:
            yield
        finally:
            _copy(own, network)

    def copy_to(self, network: nn.Module) -> None:
        """Replaces the parameters of a network by their average.

        Args:
            network: The network.
        """
        _copy(self.parameters, network)

    def state(self) -> dict[str, Tensor]:
        """Returns the tensors that a checkpoint stores."""
        return {f"average/{name}": tensor for name, tensor in self.parameters.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores the average from a checkpoint.

        Args:
            tensors: The tensors of the checkpoint; other names than those of `state` are ignored.
        """
        for name, average in self.parameters.items():
            average.copy_(tensors[f"average/{name}"])


@torch.no_grad()
def _copy(parameters: Mapping[str, Tensor], network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        parameter.copy_(parameters[name])
