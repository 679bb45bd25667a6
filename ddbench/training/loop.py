"""The one training loop: teacher, student and the full-data reference; and how accuracy is measured."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ddbench.core import interruption, seeds
from ddbench.core.checks import require_finite
from ddbench.core.errors import DDBenchError
from ddbench.training import optimizers, strategy
from ddbench.training.batches import Batch

if TYPE_CHECKING:
    from ddbench.api.context import CheckpointIO
    from ddbench.api.settings import TrainingSettings

SAVE_SECONDS = 20.0


Report = Callable[..., None]
"""Told (step, total, **metrics)."""


Schedule = Callable[[int, int], float]
"""The share of the learning rate in an epoch (from 0) of so many."""


def cosine(epoch: int, epochs: int) -> float:
    """The share of the learning rate in `epoch` (from 0) of `epochs`: 0.5 (1 + cos(pi epoch / epochs))."""
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def step_at_half(epoch: int, epochs: int) -> float:
    """The share of the learning rate in `epoch` (from 0) of `epochs`: 1 in the first half, then a tenth."""
    return 1.0 if 2 * epoch < epochs else 0.1


class BestEpoch:
    """Keeps a network's weights of the epoch with the highest score; the earliest of equal ones.

    `score(network)` gives a tuple, compared from left to right; it must not change the network's weights. `epoch`
    (from 1) and `weights`, a copy of the state dict, are those of the best epoch so far. `state` and `resume` are for
    `fit`, which keeps all this in its checkpoint.
    """

    def __init__(self, score: Callable[[nn.Module], tuple[float, ...]]) -> None:
        self._score = score
        self._best: tuple[float, ...] | None = None
        self.epoch = 0
        self.weights: dict[str, Tensor] = {}

    def look(self, network: nn.Module, epoch: int) -> None:
        """Scores `network` after `epoch` (from 1)."""
        score = self._score(network)
        if self._best is None or score > self._best:
            self._best, self.epoch = score, epoch
            self.weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and meta of a checkpoint."""
        return {f"kept/{name}": tensor for name, tensor in self.weights.items()}, {
            "kept_score": self._best,
            "kept_epoch": self.epoch,
        }

    def resume(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave."""
        if meta["kept_score"] is None:  # saved in the middle of the first epoch
            return
        self._best, self.epoch = tuple(meta["kept_score"]), int(meta["kept_epoch"])
        self.weights = _under("kept/", tensors)


def fit(
    network: nn.Module,
    epoch_batches: Callable[[int], Iterable[Batch]],
    settings: TrainingSettings,
    device: torch.device,
    precision: str,
    checkpoint: CheckpointIO | None = None,
    report: Report | None = None,
    validate: Callable[[int], float | None] | None = None,
    seed: int = 0,
    schedule: Schedule = cosine,
    keep: BestEpoch | None = None,
) -> float | None:
    """Trains `network` in place, on `device`, with all processes of the current team; the last epoch is the result.

    `epoch_batches(epoch)` gives the batches of an epoch (from 0) as a pure function of it; `settings` the
    optimiser, `schedule` the share of its learning rate by epoch, a cosine to 0. After every epoch
    `report(epoch + 1, epochs, **metrics)` is called, and `validate(epoch)` may return a number (percent) that is
    reported as top1; the best of them is returned (None without any) and never changes the training. `seed` is
    for the network's own draws (dropout). `keep` is shown the network after every epoch. Saves network, optimiser,
    epoch and what is kept to `checkpoint` at epoch ends, at most every 20 seconds; a resumed run ends with the same
    weights. Where a stop is asked for (`ddbench.core.interruption`) it saves after the step that it is at, and raises Stopped.
    Raises DDBenchError where a loss is not finite, naming the step, and where the network's or the optimiser's state
    is not: neither is saved then, the checkpoint before it stays.
    """
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in PyTorch's stubs
    optimizer = optimizers.optimizer_for(network, settings)
    slot = strategy.current_strategy().slot(checkpoint)
    start, best, begun = _resume(network, optimizer, slot, keep)
    step = strategy.current_strategy().step(network, device, precision)
    saved_at = time.monotonic()

    def save(epoch: int, inside: _Epoch | None = None) -> None:
        if slot is not None:
            kept, of_kept = ({}, {}) if keep is None else keep.state()
            part = {} if inside is None else inside.state(device)
            state = _sound(network, optimizer, f"after epoch {epoch}" if inside is None else f"in epoch {epoch + 1}")
            slot.save(state | kept | part, {"epoch": epoch, "best": best, **of_kept})

    for epoch in range(start, settings.epochs):
        rate = settings.learning_rate * schedule(epoch, settings.epochs)
        for group in optimizer.param_groups:
            group["lr"] = rate
        inside = begun if epoch == start else _Epoch()
        loss = _train_epoch(step, optimizer, epoch_batches(epoch), device, epoch, seed, inside, partial(save, epoch))
        metrics = {"loss": loss, "learning_rate": rate}
        top1 = validate(epoch) if validate else None
        if top1 is not None:
            metrics["top1"] = top1
            best = top1 if best is None else max(best, top1)
        if keep is not None:
            keep.look(network, epoch + 1)
        if time.monotonic() - saved_at >= SAVE_SECONDS or interruption.requested():
            save(epoch + 1)
            saved_at = time.monotonic()
            interruption.raise_if_requested()
        if report is not None:
            report(epoch + 1, settings.epochs, **metrics)
    _sound(network, optimizer, "after the last epoch")
    return best


@dataclass
class _Epoch:
    """How far an epoch is: the losses of its steps, and where the network's own draws stand (None: at their start)."""

    losses: list[Tensor] = field(default_factory=list)
    draws: list[Tensor] | None = None

    def state(self, device: torch.device) -> dict[str, Tensor]:
        """For a checkpoint in the middle of the epoch."""
        found = {"epoch/losses": torch.stack(self.losses), "epoch/draws/0": torch.get_rng_state()}
        if device.type == "cuda":
            found["epoch/draws/1"] = torch.cuda.get_rng_state(device)
        return found

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], device: torch.device) -> _Epoch:
        """From a checkpoint; the start of an epoch where it was saved between two."""
        if "epoch/losses" not in tensors:
            return cls()
        draws = _under("epoch/draws/", tensors)
        return cls(list(tensors["epoch/losses"].to(device, copy=True)), [draws[name].clone() for name in sorted(draws)])

    def seed(self, seed: int, device: torch.device) -> None:
        """Puts the network's own draws where they belong."""
        torch.manual_seed(seed)
        if self.draws is not None:
            torch.set_rng_state(self.draws[0])
            if device.type == "cuda":
                torch.cuda.set_rng_state(self.draws[1], device)


def _train_epoch(
    step: strategy.Step,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    device: torch.device,
    epoch: int,
    seed: int,
    inside: _Epoch,
    save: Callable[[_Epoch], None],
) -> float:
    step.network.train()
    losses = inside.losses
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        inside.seed(seeds.derive("fit", seed, epoch), device)
        for batch in itertools.islice(batches, len(losses), None):
            losses.append(step(batch, seed, epoch, len(losses)))
            optimizer.step()
            if interruption.requested():
                _check(losses, epoch)
                save(inside)
                interruption.raise_if_requested()
    # One look at the numbers an epoch: reading them step by step would make the host wait for the device.
    return _check(losses, epoch)


def _check(losses: list[Tensor], epoch: int) -> float:
    """The mean loss. Raises DDBenchError at the first one that is not finite."""
    values = torch.stack(losses)
    wrong = (~values.isfinite()).nonzero()
    if len(wrong):
        step = int(wrong[0])
        raise DDBenchError(
            f"the loss is {float(values[step])} at step {step + 1} of epoch {epoch + 1}; "
            "a lower learning rate or fp32 may help"
        )
    return float(values.mean())


def _sound(network: nn.Module, optimizer: torch.optim.Optimizer, where: str) -> dict[str, Tensor]:
    """The state of both. Raises DDBenchError where it is not finite."""
    tensors = _state(network, optimizer)
    require_finite(f"training, {where}", tensors, "; a lower learning rate or fp32 may help")
    return tensors


def _state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {f"network/{name}": tensor for name, tensor in network.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{k}": v for k, v in state.items() if isinstance(v, Tensor)}
    return tensors


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _resume(
    network: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: CheckpointIO | None, keep: BestEpoch | None
) -> tuple[int, float | None, _Epoch]:
    saved = checkpoint.load() if checkpoint is not None else None
    if saved is None:
        return 0, None, _Epoch()
    tensors, meta = saved
    network.load_state_dict(_under("network/", tensors))
    if keep is not None:
        keep.resume(tensors, meta)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            number, key = int(name.split("/")[1]), name.split("/")[2]
            # The saved tensor may be a memory-mapped file, in another memory format than the running one's.
            like = parameters[number] if tensor.shape == parameters[number].shape else tensor
            state.setdefault(number, {})[key] = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(meta["epoch"]), meta["best"], _Epoch.of(tensors, parameters[0].device)
