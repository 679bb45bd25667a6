"""Selects the epoch with the highest score during training."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn


class BestEpoch:
    """Keeps a copy of the network's weights of the epoch with the highest score; the earliest one if scores are equal.

    `fit` calls `update` after every epoch, and stores the selection in its checkpoint with `state` and `load_state`.

    Args:
        score: Computes the score of a network as a tuple; tuples are compared from left to right. It must not change
            the network's weights.

    Attributes:
        epoch: The best epoch so far, from 1; 0 before the first update.
        weights: A copy of the state dict of that epoch.

    Example:
        >>> network = nn.Linear(1, 1)
        >>> best = BestEpoch(lambda network: (float(network.bias.detach()),))
        >>> for epoch, bias in enumerate([0.5, 2.0, 1.0], 1):
        ...     _ = network.bias.data.fill_(bias)
        ...     best.update(network, epoch)
        >>> best.epoch, best.weights["bias"]
        (2, tensor([2.]))
    """

    def __init__(self, score: Callable[[nn.Module], tuple[float, ...]]) -> None:
        self._score = score
        self._best: tuple[float, ...] | None = None
        self.epoch = 0
        self.weights: dict[str, Tensor] = {}

    def update(self, network: nn.Module, epoch: int) -> None:
        """Scores a network and keeps its weights if the score is the highest so far.

        Args:
            network: The network after `epoch`.
            epoch: The number of finished epochs.
        """
        score = self._score(network)
        if self._best is None or score > self._best:
            self._best, self.epoch = score, epoch
            self.weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns the tensors and the metadata that a checkpoint stores."""
        return {f"kept/{name}": tensor for name, tensor in self.weights.items()}, {
            "kept_score": self._best,
            "kept_epoch": self.epoch,
        }

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Restores the selection from a checkpoint.

        Args:
            tensors: The tensors of the checkpoint; other names than those of `state` are ignored.
            meta: The metadata of the checkpoint.
        """
        if meta["kept_score"] is None:  # a checkpoint of the first epoch has no selection
            return
        self._best, self.epoch = tuple(meta["kept_score"]), int(meta["kept_epoch"])
        self.weights = {
            name.removeprefix("kept/"): tensor for name, tensor in tensors.items() if name.startswith("kept/")
        }
