"""The accuracy of a network during its training."""

import contextlib
from collections.abc import Callable, Container, Mapping
from typing import Any

from torch import nn


class Curve:
    """Measures a network after chosen optimiser steps of its training. The training does not depend on it.

    `fit` calls `update` after every step, and stores the curve in its checkpoint with `state` and `load_state`.

    Args:
        measure: Computes the top-1 of a network in percent. It must not change the network's weights.
        steps: The steps (from 1) to measure after.

    Attributes:
        step: The number of finished steps.
        top1: The measured top-1 by step.

    Example:
        >>> curve = Curve(lambda network: float(network.bias.detach()), steps={1, 3})
        >>> network = nn.Linear(1, 1)
        >>> for bias in (0.5, 1.0, 2.0):
        ...     _ = network.bias.data.fill_(bias)
        ...     curve.update(network)
        >>> curve.top1
        {1: 0.5, 3: 2.0}
    """

    def __init__(self, measure: Callable[[nn.Module], float], steps: Container[int]) -> None:
        self._measure, self._steps = measure, steps
        self.step = 0
        self.top1: dict[int, float] = {}

    def update(
        self,
        network: nn.Module,
        measured: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """Counts a step and measures the network if it is one of the chosen steps.

        Args:
            network: The network after the step. It is left in training mode.
            measured: Returns a block in which the network has the parameters to measure.
        """
        self.step += 1
        if self.step in self._steps:
            with measured():
                self.top1[self.step] = self._measure(network)
            network.train()

    def state(self) -> dict[str, Any]:
        """Returns the metadata that a checkpoint stores."""
        return {"curve_step": self.step, "curve": list(self.top1.items())}

    def load_state(self, meta: Mapping[str, Any]) -> None:
        """Restores the curve from the metadata of a checkpoint."""
        self.step = int(meta["curve_step"])
        self.top1 = {int(step): float(top1) for step, top1 in meta["curve"]}
