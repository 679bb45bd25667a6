"""How the processes of a run train one network. This module is for one process, `ddbench.training.ddp` for several.

Views, crops, flips, CutMix and permutations are drawn for the whole batch of a step; each process computes its shard of
that batch. The loss is the mean over the whole batch with any number of processes.
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
from ddbench.training.state import get_rng_states

if TYPE_CHECKING:
    from ddbench.training.batches import Batch


class Strategy:
    """The strategy of a single process. `ddbench.training.ddp.DDPStrategy` is the strategy of several processes.

    Attributes:
        size: The number of processes.
    """

    size = 1

    def shard(self, batch: slice) -> slice:
        """Returns the positions of a batch that this process computes.

        Args:
            batch: The positions of the batch in the epoch.

        Returns:
            The shard; the whole batch if it holds fewer than `size` images.

        Example:
            >>> Strategy().shard(slice(100, 132))
            slice(100, 132, None)
        """
        return batch

    def checkpoint_io(self, checkpoint: CheckpointIO | None) -> CheckpointIO | None:
        """Returns a checkpoint that loads the same state in every process and is saved by one process only.

        Args:
            checkpoint: The checkpoint of this process, if any.
        """
        return checkpoint

    def gradient_step(self, network: nn.Module, device: torch.device, precision: str) -> GradientStep:
        """Returns the object that computes the gradients of every step.

        Args:
            network: The network, on `device`, with its initial or resumed weights.
            device: The device.
            precision: `fp32` or `bf16`, for autocast.
        """
        return GradientStep(network, device, precision)


_strategy = Strategy()


def current_strategy() -> Strategy:
    """Returns the strategy of the innermost `strategy_context`, or the single-process strategy if there is none."""
    return _strategy


@contextlib.contextmanager
def strategy_context(strategy: Strategy) -> Iterator[Strategy]:
    """Makes a strategy the current one inside the block.

    Args:
        strategy: The strategy.

    Yields:
        The same strategy.
    """
    global _strategy
    previous, _strategy = _strategy, strategy
    try:
        yield strategy
    finally:
        _strategy = previous


class GradientStep:
    """Computes the gradients of a network, one batch after another.

    If a batch does not fit into memory, it passes through the network in parts, and the gradients remain those of the
    whole batch (gradient caching, Gao et al. 2021): a first pass without a graph gives the logits of all images, the
    loss gives its gradient with respect to them, and a second pass propagates that gradient part by part. The result is
    the same up to rounding if the network processes each image independently. With BatchNorm or random layers (dropout)
    the batch is not split, and the out-of-memory error is raised.

    Args:
        network: The network, on `device`.
        device: The device.
        precision: `fp32` or `bf16`, for autocast.
    """

    def __init__(self, network: nn.Module, device: torch.device, precision: str) -> None:
        self._network = network
        self._forward: nn.Module = network
        self._device, self._precision = device, precision
        self._batcher = None if batch_norms(network) else memory.OOMBatcher("images of a training step")

    def __call__(self, batch: Batch, *names: str | int) -> Tensor:
        """Computes the loss of a batch and leaves the gradients in the network.

        Args:
            batch: The batch, or this process's shard of it if several processes train.
            names: Identify the step. They seed dropout if several processes train.

        Returns:
            The loss of the whole batch, a scalar.

        Raises:
            DDBenchError: The batch does not fit into memory, and the network has random layers (dropout).
            RuntimeError: The out-of-memory error of the device, if a single image does not fit or the network has
                BatchNorm.
        """
        attempt = partial(self._attempt, batch)
        count = len(batch.images)
        return attempt(count) if self._batcher is None else self._batcher(attempt, count)

    def _attempt(self, batch: Batch, size: int) -> Tensor:
        """Computes the gradients with `size` images at a time."""
        self._network.zero_grad(set_to_none=True)
        if size < len(batch.images):
            return self._attempt_in_parts(batch, torch.split(batch.images, size))
        loss = self._scale(batch.loss(self._logits(batch.images)), batch)
        self._backward(loss)
        return loss.detach()

    def _attempt_in_parts(self, batch: Batch, parts: tuple[Tensor, ...]) -> Tensor:
        rng_states = get_rng_states(self._device)
        with torch.no_grad():
            logits = torch.cat([self._logits(part) for part in parts])
        if any(not torch.equal(*states) for states in zip(rng_states, get_rng_states(self._device), strict=True)):
            raise DDBenchError(
                f"out of memory: a step of {len(logits)} images does not fit, and {type(self._network).__name__} has "
                "random layers (dropout), so that computing it in parts would change the numbers; use a smaller batch "
                "size (this changes the results and starts a new run), or a device with more memory"
            )
        logits.requires_grad_()
        loss = self._scale(batch.loss(logits), batch)
        (gradient,) = torch.autograd.grad(loss, logits)
        for number, (part, of_part) in enumerate(zip(parts, torch.split(gradient, len(parts[0])), strict=True)):
            with contextlib.nullcontext() if number == len(parts) - 1 else self._no_sync():
                self._backward(self._logits(part), of_part)
        return loss.detach()

    def _logits(self, images: Tensor) -> Tensor:
        with autocast(self._device, self._precision):
            logits: Tensor = self._forward(images.contiguous(memory_format=torch.channels_last))
        return logits.float()

    # -- overridden for several processes --------------------------------------------------------------------------

    def _scale(self, loss: Tensor, batch: Batch) -> Tensor:
        return loss

    def _backward(self, tensor: Tensor, gradient: Tensor | None = None) -> None:
        tensor.backward(gradient)  # type: ignore[no-untyped-call]

    def _no_sync(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()
