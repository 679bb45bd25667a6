"""The training loop of teachers, students and the full-data reference."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ddbench.core import interruption, seeds
from ddbench.core.errors import DDBenchError
from ddbench.training.averaging import WeightAverage
from ddbench.training.best_epoch import BestEpoch
from ddbench.training.curve import Curve
from ddbench.training.optimizers import build_optimizer
from ddbench.training.schedules import BY_NAME, Schedule
from ddbench.training.state import TrainingState
from ddbench.training.strategy import GradientStep, current_strategy

if TYPE_CHECKING:
    from ddbench.api.context import CheckpointIO, Progress
    from ddbench.api.settings import TrainingSettings
    from ddbench.training.batches import Batch

SAVE_SECONDS = 20.0
"""The shortest time between two checkpoints."""

Gradient = Callable[[nn.Module, Callable[[], Tensor]], Tensor]
"""`gradient(network, compute)` leaves the gradient of a step in the network and returns the loss. `compute()` does so
for the batch and the present parameters."""


def fit(
    network: nn.Module,
    epoch_batches: Callable[[int], Iterable[Batch]],
    settings: TrainingSettings,
    device: torch.device,
    precision: str,
    checkpoint: CheckpointIO | None = None,
    report: Progress | None = None,
    curve: Curve | None = None,
    seed: int = 0,
    schedule: Schedule | None = None,
    best_epoch: BestEpoch | None = None,
    average: WeightAverage | None = None,
    gradient: Gradient | None = None,
) -> None:
    """Trains a network in place. The weights of the last epoch are the result, or with `average` their average.

    All processes of the current strategy train together. A resumed run ends with the same weights as one that was
    never interrupted. If a stop is requested (`ddbench.core.interruption`), the loop saves after the current step and
    raises `Stopped`.

    Args:
        network: The network. It is moved to `device`, in channels-last memory format.
        epoch_batches: Returns the batches of an epoch (from 0). It must be a pure function of the epoch.
        settings: The optimiser and its hyper-parameters, and the number of epochs.
        device: The device to train on.
        precision: `fp32` or `bf16`, for autocast.
        checkpoint: Stores network, optimiser, epoch, `curve`, `best_epoch` and `average` at the end of an epoch, at
            most every `SAVE_SECONDS`. None: nothing is stored.
        report: Called after every epoch as `report(epoch + 1, epochs, **metrics)`.
        curve: Measures the network during training; it is updated after every step. What it measures at the end of an
            epoch is reported.
        seed: The seed of dropout.
        schedule: The factor of the learning rate in each epoch; None: that of the settings.
        best_epoch: Selects an epoch; it is updated after every epoch.
        average: Averages the parameters over the steps; `curve` and `best_epoch` see the network with the average.
        gradient: Computes the gradient of each step from one or more gradients of its batch. None: that of the loss.

    Raises:
        DDBenchError: A loss, the network or the optimiser is not finite. That state is not saved; the previous
            checkpoint stays.
        Stopped: A stop was requested.

    Example:
        >>> from ddbench.api.settings import TrainingSettings
        >>> from ddbench.training import Batch, fit
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))
        >>> images, targets = torch.eye(2).view(2, 2, 1, 1), torch.tensor([[1.0], [-1.0]])
        >>> batch = Batch(images, lambda logits: (logits - targets).square().mean())
        >>> settings = TrainingSettings(epochs=50, learning_rate=0.5)
        >>> fit(network, lambda epoch: [batch], settings, torch.device("cpu"), "fp32")
        >>> (network(images).detach() - targets).abs().max() < 0.1
        tensor(True)
    """
    schedule = schedule or BY_NAME[settings.schedule]
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in PyTorch's stubs
    optimizer = build_optimizer(network, settings)
    strategy = current_strategy()
    if average is not None:
        average.update(network)
    state = TrainingState(network, optimizer, device, strategy.checkpoint_io(checkpoint), best_epoch, average, curve)
    state.load()
    gradient_step = strategy.gradient_step(network, device, precision)  # after the weights are loaded
    saved_at = time.monotonic()

    for epoch in range(state.epoch, settings.epochs):
        learning_rate = settings.learning_rate * schedule(epoch, settings.epochs)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate

        loss = _train_epoch(state, gradient_step, epoch_batches(epoch), seed, gradient)

        metrics = {"loss": loss, "learning_rate": learning_rate}
        if curve is not None and curve.step in curve.top1:
            metrics["top1"] = curve.top1[curve.step]
        if best_epoch is not None:
            with state.measured():
                best_epoch.update(network, epoch + 1)
        state.finish_epoch()

        if time.monotonic() - saved_at >= SAVE_SECONDS or interruption.requested():
            state.save()
            saved_at = time.monotonic()
            interruption.raise_if_requested()
        if report is not None:
            report(epoch + 1, settings.epochs, **metrics)

    state.require_finite("after the last epoch")
    if average is not None:
        average.copy_to(network)


def _train_epoch(
    state: TrainingState, gradient_step: GradientStep, batches: Iterable[Batch], seed: int, gradient: Gradient | None
) -> float:
    """Trains on the remaining batches of the current epoch. Returns the mean loss over the whole epoch."""
    epoch, losses = state.epoch, state.losses
    state.network.train()
    with state.network_draws(seeds.derive("fit", seed, epoch)):
        for batch in itertools.islice(batches, len(losses), None):
            compute = partial(gradient_step, batch, seed, epoch, len(losses))
            losses.append(compute() if gradient is None else gradient(state.network, compute))
            state.step()
            if interruption.requested():
                _mean_loss(losses, epoch)
                state.save()
                interruption.raise_if_requested()
    # The losses are read once per epoch, because each read synchronises with the device.
    return _mean_loss(losses, epoch)


def _mean_loss(losses: list[Tensor], epoch: int) -> float:
    """Returns the mean of the losses. Raises DDBenchError for the first one that is not finite."""
    values = torch.stack(losses)
    not_finite = (~values.isfinite()).nonzero()
    if len(not_finite):
        step = int(not_finite[0])
        raise DDBenchError(
            f"the loss is {float(values[step])} at step {step + 1} of epoch {epoch + 1}; "
            "a lower learning rate or fp32 may help"
        )
    return float(values.mean())
