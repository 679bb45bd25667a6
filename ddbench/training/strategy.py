"""The processes that train one network together: one, or several (`ddbench.execution.parallel`).

A step of training belongs to no process: views, crops, flips, CutMix and permutation are drawn for its whole batch, and
each process takes its share of that. The loss is the mean over the whole batch wherever it is computed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ddbench.api.context import CheckpointIO
from ddbench.core.errors import DDBenchError
from ddbench.nn import memory
from ddbench.nn.device import autocast
from ddbench.nn.layers import batch_norms

if TYPE_CHECKING:
    from ddbench.training.batches import Batch


class Step:
    """Gradients of one optimiser step after another, of a network on its device.

    Where memory runs out, a batch goes through the network in parts, and the step stays that of the whole batch: a pass
    without a graph gives the logits of all, the loss its gradient in them, and a second pass takes that back part by
    part (gradient caching, Gao et al. 2021). That leaves the numbers as they are up to rounding where a network sees
    each image for itself; with BatchNorm or draws of its own (dropout) nothing is cut, and the device's answer stands.
    """

    def __init__(self, network: nn.Module, device: torch.device, precision: str) -> None:
        self.network = network
        self._forward: nn.Module = network
        self._device, self._precision = device, precision
        self._together = None if batch_norms(network) else memory.OOMBatcher("images of a training step")

    def __call__(self, batch: Batch, *names: str | int) -> Tensor:
        """Leaves the gradients in the network; returns the loss, a scalar. `names` are those of this step's draws.

        Raises DDBenchError where memory runs out and the network draws; else what the device says where nothing helps.
        """
        attempt = partial(self._attempt, batch)
        count = len(batch.images)
        return attempt(count) if self._together is None else self._together(attempt, count)

    def _attempt(self, batch: Batch, size: int) -> Tensor:
        self.network.zero_grad(set_to_none=True)
        if size < len(batch.images):
            return self._in_parts(batch, torch.split(batch.images, size))
        loss = self._scaled(batch.loss(self._logits(batch.images)), batch)
        self._backward(loss)
        return loss.detach()

    def _in_parts(self, batch: Batch, parts: tuple[Tensor, ...]) -> Tensor:
        draws = self._draws()
        with torch.no_grad():
            logits = torch.cat([self._logits(part) for part in parts])
        if any(not torch.equal(before, after) for before, after in zip(draws, self._draws(), strict=True)):
            raise DDBenchError(
                f"out of memory: a step of {len(logits)} images does not fit, and {type(self.network).__name__}"
                " draws (dropout), so parts of it would give other numbers: a smaller batch, which is another run, or a"
                " device with more memory is needed"
            )
        logits.requires_grad_()
        loss = self._scaled(batch.loss(logits), batch)
        (gradient,) = torch.autograd.grad(loss, logits)
        for number, (part, share) in enumerate(zip(parts, torch.split(gradient, len(parts[0])), strict=True)):
            with contextlib.nullcontext() if number == len(parts) - 1 else self._unsynchronised():
                self._backward(self._logits(part), share)
        return loss.detach()

    def _logits(self, images: Tensor) -> Tensor:
        with autocast(self._device, self._precision):
            logits: Tensor = self._forward(images.contiguous(memory_format=torch.channels_last))
        return logits.float()

    def _draws(self) -> list[Tensor]:
        """Where the generators of the network's own draws stand."""
        found = [torch.get_rng_state()]
        return [*found, torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else found

    # -- what several processes do otherwise ------------------------------------------------------------------

    def _scaled(self, loss: Tensor, batch: Batch) -> Tensor:
        return loss

    def _backward(self, tensor: Tensor, gradient: Tensor | None = None) -> None:
        tensor.backward(gradient)  # type: ignore[no-untyped-call]

    def _unsynchronised(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class Strategy:
    """Who trains a network: here this process alone."""

    size = 1

    def share(self, part: slice) -> slice:
        """The positions of a step's batch that this process sees. One of fewer than `size` images is seen by all."""
        return part

    def slot(self, checkpoint: CheckpointIO | None) -> CheckpointIO | None:
        """The checkpoint of all."""
        return checkpoint

    def step(self, network: nn.Module, device: torch.device, precision: str) -> Step:
        """What computes the gradients of every step; `network` is on the device, with the weights to begin with."""
        return Step(network, device, precision)


_strategy = Strategy()


def current_strategy() -> Strategy:
    """Who trains in this moment."""
    return _strategy


@contextlib.contextmanager
def strategy_context(team: Strategy) -> Iterator[Strategy]:
    """`team` is the current one in this block."""
    global _strategy
    before, _strategy = _strategy, team
    try:
        yield team
    finally:
        _strategy = before
