"""The interface of the teacher: its outputs, its statistics, and objectives on its outputs. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import EllipsisType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Output:
    """The result of one forward pass of a teacher.

    Attributes:
        logits: Float [B, classes].
        features: Features of the requested layer, float [B, d].
        bn_inputs: The input of each BatchNorm layer, [B, C, ...], in the order of `Teacher.bn_names`. If only moments
            were requested, each is a `ddbench.nn.Moments` instead.
        turn: In `DistillTask.recover` with several networks, the number of the network among them, from 0.
        rows: In `DistillTask.recover`, the rows of the unit that the output is of, as an index: those of
            `Phase.images`, or all (`...`).
    """

    logits: Tensor
    features: Tensor
    bn_inputs: list[Tensor]
    turn: int = 0
    rows: Tensor | EllipsisType = ...


@dataclass(frozen=True)
class Phase:
    """A part of the loop `DistillTask.recover`.

    Attributes:
        steps: The number of steps. Those of all phases sum to the steps of the settings.
        images: The numbers of the images of the unit that are optimised, ascending. The next phases have these images
            too. None: all.
        start: Changes the images before the first step: maps normalised images [n, 3, S, S] to [n, 3, T, T]. Adam then
            starts anew. None: the phase goes on with the images and with Adam.

    Example:
        A second half at another size::

            phases = [Phase(500), Phase(500, start=lambda images: resize(images, 64))]
    """

    steps: int
    images: tuple[int, ...] | None = None
    start: Callable[[Tensor], Tensor] | None = None


Objective = Callable[[Output], "dict[str, Tensor]"]
"""Type of a recover objective: maps a network's output for the current views to weighted loss terms by name.

`DistillTask.recover` minimises the sum of the terms and calls the objective inside autocast. The BatchNorm inputs are
`ddbench.nn.Moments`, which the terms in `ddbench.losses` accept. If an objective uses the inputs in any other way, it
is called with the input tensors instead, in this step and all later ones.
"""


@dataclass(frozen=True)
class ClassStatistics:
    """Statistics of the real images of one class, float32 on the CPU.

    Attributes:
        features: Features [n, d], one row per image.
        bn_means: Mean of the input of each BatchNorm layer, [C].
        bn_vars: Variance of the input of each BatchNorm layer, [C].
    """

    features: Tensor
    bn_means: list[Tensor]
    bn_vars: list[Tensor]


class Teacher(Protocol):
    """A trained classifier in evaluation mode with frozen parameters.

    Attributes:
        network: The module.
        feature_dim: Size of the features that feed the last linear layer.
        bn_names: Names of the BatchNorm layers.
        layer_names: Names of the layers with weights. Their features can be requested by number, from 1.
    """

    network: nn.Module
    feature_dim: int
    bn_names: list[str]
    layer_names: list[str]

    def __call__(self, images: Tensor, bn: bool = True, layer: int | None = None, moments: bool = False) -> Output:
        """Runs a forward pass.

        Args:
            images: Normalised images [B, 3, S, S].
            bn: Whether to return the BatchNorm inputs.
            layer: Number of the layer whose features to return. None: the input of the last linear layer.
            moments: Whether to return only the moments of the BatchNorm inputs.

        Returns:
            Logits, features and BatchNorm inputs.
        """

    def running_statistics(self) -> tuple[list[Tensor], list[Tensor]]:
        """Returns the running means and the running variances of the BatchNorm layers, each [C], as in `bn_names`."""
