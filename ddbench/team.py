"""The processes that train one network together: this one alone, or several (`ddbench.parallel`, where asked for).

A step of training belongs to no process: views, crops, flips, CutMix and permutation are drawn for its whole batch, and
each process takes its share of that. The loss is the mean over the whole batch wherever it is computed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from ddbench import memory
from ddbench.device import autocast
from ddbench.errors import DDBenchError
from ddbench.models import batch_norms

if TYPE_CHECKING:
    from ddbench.experiment import Experiment
    from ddbench.stages import Workspace
    from ddbench.training import Batch


class Slot(Protocol):
    """What the training loop asks of a checkpoint."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was saved last."""
        ...

    def save(self, tensors: dict[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Replaces it."""
        ...


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
        self._together = None if batch_norms(network) else memory.Together("images of a training step")

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


class Team:
    """Who trains a network: here this process alone."""

    size = 1

    def share(self, part: slice) -> slice:
        """The positions of a step's batch that this process sees. One of fewer than `size` images is seen by all."""
        return part

    def slot(self, checkpoint: Slot | None) -> Slot | None:
        """The checkpoint of all."""
        return checkpoint

    def step(self, network: nn.Module, device: torch.device, precision: str) -> Step:
        """What computes the gradients of every step; `network` is on the device, with the weights to begin with."""
        return Step(network, device, precision)


_team = Team()
_call: Callable[[str, Workspace, Experiment], contextlib.AbstractContextManager[Team]] | None = None


def current() -> Team:
    """Who trains in this moment."""
    return _team


@contextlib.contextmanager
def working(team: Team) -> Iterator[Team]:
    """`team` is the current one in this block."""
    global _team
    before, _team = _team, team
    try:
        yield team
    finally:
        _team = before


@contextlib.contextmanager
def calling(call: Callable[[str, Workspace, Experiment], contextlib.AbstractContextManager[Team]]) -> Iterator[None]:
    """In this block `call` gets the processes together for every stage (`called`)."""
    global _call
    _call = call
    try:
        yield
    finally:
        _call = None


@contextlib.contextmanager
def called(stage: str, workspace: Workspace, experiment: Experiment) -> Iterator[Team]:
    """Around the building of a stage: other processes take part where there are any, and where it trains."""
    if _call is None:
        yield _team
        return
    with _call(stage, workspace, experiment) as team, working(team):
        yield team
