"""The state of a training run, and its checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ddbench.api.context import CheckpointIO
from ddbench.core.checks import require_finite
from ddbench.training.averaging import WeightAverage
from ddbench.training.best_epoch import BestEpoch
from ddbench.training.curve import Curve

OTHER = "other/"
"""Prefix of the names of the tensors in a checkpoint that are not of the training; `TrainingState` ignores them."""


@dataclass
class TrainingState:
    """Everything that `fit` saves to continue a run: between two epochs, or between two steps of an epoch.

    Args:
        network: The network, on `device`.
        optimizer: The optimiser of the network.
        device: The device of the training.
        checkpoint: The checkpoint to load and save; None: nothing is loaded or saved.
        best_epoch: The selection of an epoch, if there is one.
        average: The average of the network's parameters, if there is one; it has been updated once.
        curve: The measurements during training, if there are any.

    Attributes:
        epoch: The number of finished epochs.
        losses: The loss of every finished step of the current epoch, scalars on the device.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    checkpoint: CheckpointIO | None
    best_epoch: BestEpoch | None
    average: WeightAverage | None = None
    curve: Curve | None = None
    epoch: int = 0
    losses: list[Tensor] = field(default_factory=list)
    _rng_states: list[Tensor] | None = field(default=None, init=False)

    def save(self) -> None:
        """Saves the checkpoint.

        Raises:
            DDBenchError: The network or the optimiser is not finite. The previous checkpoint stays.
        """
        if self.checkpoint is None:
            return
        best_tensors, best_meta = ({}, {}) if self.best_epoch is None else self.best_epoch.state()
        tensors = self.require_finite(f"in epoch {self.epoch + 1}" if self.losses else f"after epoch {self.epoch}")
        tensors |= best_tensors
        if self.average is not None:
            tensors |= self.average.state()
        if self.losses:
            rng_states = {f"epoch/draws/{n}": state for n, state in enumerate(get_rng_states(self.device))}
            tensors |= {"epoch/losses": torch.stack(self.losses)} | rng_states
        curve_meta = {} if self.curve is None else self.curve.state()
        self.checkpoint.save(tensors, {"epoch": self.epoch, **best_meta, **curve_meta})

    def load(self) -> None:
        """Restores everything from the checkpoint, if one was saved."""
        saved = self.checkpoint.load() if self.checkpoint is not None else None
        if saved is None:
            return
        tensors, meta = saved
        if self.curve is not None:
            if "curve" not in meta:  # a checkpoint of an older version has no points: training starts again
                return
            self.curve.load_state(meta)
        self.epoch = int(meta["epoch"])
        self.network.load_state_dict(_with_prefix("network/", tensors))
        self._load_optimizer(_with_prefix("optimizer/", tensors))
        if self.best_epoch is not None:
            self.best_epoch.load_state(tensors, meta)
        if self.average is not None:
            self.average.load_state(tensors)
        if "epoch/losses" in tensors:
            self.losses = list(tensors["epoch/losses"].to(self.device, copy=True))
            self._rng_states = [state.clone() for _, state in sorted(_with_prefix("epoch/draws/", tensors).items())]

    def step(self) -> None:
        """Updates the network by its gradients, then the average of its parameters; measures it if a point is due."""
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.network)
        if self.curve is not None:
            self.curve.update(self.network, self.measured)

    def measured(self) -> contextlib.AbstractContextManager[None]:
        """Returns a block in which the network has the parameters to measure: their average, if there is one."""
        return contextlib.nullcontext() if self.average is None else self.average.applied(self.network)

    def finish_epoch(self) -> None:
        """Marks the current epoch as finished."""
        self.epoch, self.losses, self._rng_states = self.epoch + 1, [], None

    def require_finite(self, when: str) -> dict[str, Tensor]:
        """Checks the network and the optimiser for NaN and infinity.

        Args:
            when: The position in the run, for the message.

        Returns:
            The tensors of both, as a checkpoint stores them.

        Raises:
            DDBenchError: A tensor is not finite.
        """
        tensors = {f"network/{name}": tensor for name, tensor in self.network.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        require_finite(f"training, {when}", tensors, "; a lower learning rate or fp32 may help")
        return tensors

    @contextlib.contextmanager
    def network_draws(self, seed: int) -> Iterator[None]:
        """Seeds the global generators, which dropout uses, and restores them after the block.

        In an epoch that was resumed between two steps, the generators continue from their state in the checkpoint.

        Args:
            seed: The seed of the epoch.
        """
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            if self._rng_states is not None:
                torch.set_rng_state(self._rng_states[0])
                if self.device.type == "cuda":
                    torch.cuda.set_rng_state(self._rng_states[1], self.device)
            yield

    def _load_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            number, key = int(name.split("/")[0]), name.split("/")[1]
            # The loaded tensor may be a memory-mapped file, and its memory format may not be that of the optimiser's
            # tensor.
            like = parameters[number] if tensor.shape == parameters[number].shape else tensor
            state.setdefault(number, {})[key] = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})


@dataclass(frozen=True)
class ExtendedCheckpoint:
    """A checkpoint of a training that also stores other tensors, such as records of the images.

    Attributes:
        checkpoint: The checkpoint of the training.
        tensors: The other tensors by name. `load` writes the saved ones into them and adds those that are missing.
    """

    checkpoint: CheckpointIO
    tensors: dict[str, Tensor]

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Loads the state of the training and the other tensors. See CheckpointIO.load."""
        saved = self.checkpoint.load()
        if saved is not None:
            for name, tensor in _with_prefix(OTHER, saved[0]).items():
                if name in self.tensors:
                    self.tensors[name].copy_(tensor)
                else:
                    self.tensors[name] = tensor.clone()
        return saved

    def save(self, tensors: dict[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Saves both. See CheckpointIO.save."""
        self.checkpoint.save(tensors | {OTHER + name: tensor for name, tensor in self.tensors.items()}, meta)


def get_rng_states(device: torch.device) -> list[Tensor]:
    """Returns the states of the global generators: of the CPU, then of a CUDA device."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
