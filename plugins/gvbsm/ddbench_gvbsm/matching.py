"""The terms of the loss that G-VBSM and EDC share: cross-entropy, statistics at BatchNorm layers and convolutions."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ddbench import losses
from ddbench.nn import Moments, Statistics, autocast, batch_norms, moments, patch_moments, tap_inputs
from ddbench_gvbsm.statistics import TENSORS

if TYPE_CHECKING:
    from ddbench.api import DistillTask, Teacher, Unit
    from ddbench_gvbsm.gvbsm import StatisticsMatching


class Targets(NamedTuple):
    """Statistics of the real images, which those of a batch are compared with.

    Attributes:
        statistics: By layer: those of channels [C] and, at convolutions, those of patches [P]. With `weights`, [R, C]
            and [R, P].
        share: The weight of the comparison.
        weights: Weights [R, B] of the images for R groups of images, e.g. classes; see `losses.class_moments`. None:
            all images are one group.
        prefix: Prefix of the names of the moving averages.
    """

    statistics: Mapping[str, Sequence[Statistics]]
    share: float = 1.0
    weights: Tensor | None = None
    prefix: str = ""


class MatchingLoss:
    """The loss of a unit: cross-entropy and statistics. In step t, teacher t mod T takes its turn.

    Args:
        method: The hyper-parameters.
        task: The task.
        unit: The unit, of whole classes.

    Attributes:
        labels: The classes of the images, int64 [n].
        teachers: The teachers.
        state: The tensors that are kept from step to step.
    """

    def __init__(self, method: StatisticsMatching, task: DistillTask, unit: Unit) -> None:
        self.method, self.task, self.unit = method, task, unit
        self.labels = torch.tensor([slot.label for slot in unit.slots], device=task.device)
        self.teachers = task.teachers(*method.teachers)
        self.state: dict[str, Tensor] = {}
        self._matches = [
            StatisticsMatch(method, teacher, self.targets(number), self.state, f"{number}/", task.device)
            for number, teacher in enumerate(self.teachers)
        ]

    def minimise(self, initial: Tensor) -> Tensor:
        """Optimises normalised images [n, 3, S, S], and returns them in [0, 1]."""
        return self.task.optimise(self.unit, self, initial, self.method, self.state)

    def targets(self, number: int) -> list[Targets]:
        """Returns the statistics that those of one teacher are compared with."""
        return [Targets(all_statistics(self.teachers[number], self.tensors("convolutions", number)))]

    def tensors(self, stage: str, number: int) -> dict[str, Tensor]:
        """Returns the statistics of a stage for one teacher, on the device."""
        return {name: value.to(self.task.device) for name, value in self.task.tensors(stage, number).items()}

    def view(self, images: Tensor, step: int) -> Tensor:
        """Returns the view [n, 3, S, S] of the images in a step."""
        raise NotImplementedError

    def further_terms(self, images: Tensor, view: Tensor, logits: Tensor, step: int) -> dict[str, Tensor]:
        """Returns the other weighted terms of the loss."""
        raise NotImplementedError

    def __call__(self, images: Tensor, step: int) -> dict[str, Tensor]:
        """Returns the weighted terms of the loss; see `ddbench.api.ImageLoss`."""
        view, match = self.view(images, step), self._matches[step % len(self._matches)]
        draws = self.task.generator("dropped convolutions", self.unit.index, step)
        logits, distance = match.distance(view, self.task.precision, draws)
        return {
            "cross_entropy": losses.cross_entropy(logits, self.labels),
            "statistics": self.method.statistics_weight * distance,
            **self.further_terms(images, view, logits, step),
        }


class StatisticsMatch:
    """The distance between the statistics of images and of the real data, at all layers of one teacher.

    Args:
        method: The hyper-parameters.
        teacher: The teacher.
        targets: What the statistics are compared with. The first one has all layers.
        state: Holds the moving averages.
        prefix: Prefix of their names.
        device: The device.
    """

    def __init__(
        self,
        method: StatisticsMatching,
        teacher: Teacher,
        targets: Sequence[Targets],
        state: MutableMapping[str, Tensor],
        prefix: str,
        device: torch.device,
    ) -> None:
        self._method, self._teacher, self._state, self._prefix, self._device = method, teacher, state, prefix, device
        self._targets = targets
        layers = targets[0].statistics
        self.convolutions = [name for name in layers if name not in teacher.bn_names]
        known = batch_norms(teacher.network).keys() | layers.keys()
        self._first = next(name for name, _ in teacher.network.named_modules() if name in known)

    def distance(self, view: Tensor, precision: str, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Passes a view through the teacher.

        Args:
            view: Normalised images [n, 3, S, S].
            precision: The precision of the pass.
            draws: Draws the convolutions that are left out.

        Returns:
            A tuple of the logits [n, K] and the distance, a scalar: the unsquared norms of the differences of all means
            and variances, averaged over groups of images and summed over layers.
        """
        kept = torch.rand(len(self.convolutions), generator=draws) >= self._method.drop
        names = [name for name, keep in zip(self.convolutions, kept.tolist(), strict=True) if keep]
        with tap_inputs(self._teacher.network, names) as inputs, autocast(self._device, precision):
            output = self._teacher(view, moments=True)
        layers: dict[str, list[Moments]] = {
            name: [Moments(*moments(inputs[name])), patch_moments(inputs[name], self._method.patch)] for name in names
        }
        for name, bn_input in zip(self._teacher.bn_names, output.bn_inputs, strict=True):
            layers[name] = [Moments(*moments(bn_input))]
        total = torch.zeros((), device=self._device)
        for name, every in layers.items():
            scale = self._method.first_scale if name == self._first else 1.0
            for kind, target in product(range(len(every)), self._targets):
                actual = over_images(every[kind], target.weights)
                for moment, now, real in zip(Statistics._fields, actual, target.statistics[name][kind], strict=True):
                    key = f"{self._prefix}{target.prefix}{name}/{kind}/{moment}"
                    average = moving_average(self._state, key, now, self._method.ema, self._method.ema_start)
                    sizes = torch.linalg.vector_norm(real - average, dim=-1)
                    total = total + scale * target.share * sizes.mean()
        return output.logits, total


def grouped(tensors: Mapping[str, Tensor]) -> dict[str, list[Statistics]]:
    """Groups the tensors of a stage by layer.

    Args:
        tensors: `LAYER/KIND` for the kinds in `TENSORS`, or the first two of them.

    Returns:
        The statistics of channels and, where they are, of patches, by layer.
    """
    layers: dict[str, list[Tensor]] = {}
    for name in dict.fromkeys(name.rpartition("/")[0] for name in tensors):
        layers[name] = [tensors[f"{name}/{kind}"] for kind in TENSORS if f"{name}/{kind}" in tensors]
    return {
        name: [Statistics(*pair) for pair in zip(values[::2], values[1::2], strict=True)]
        for name, values in layers.items()
    }


def all_statistics(teacher: Teacher, convolutions: Mapping[str, Tensor]) -> dict[str, list[Statistics]]:
    """Returns the statistics of all real images, at convolutions and BatchNorm layers.

    Args:
        teacher: The teacher.
        convolutions: The tensors of the stage `convolutions`.

    Returns:
        The statistics by layer; those of BatchNorm layers are the running ones.
    """
    pairs = zip(*teacher.running_statistics(), strict=True)
    return grouped(convolutions) | {
        name: [Statistics(*pair)] for name, pair in zip(teacher.bn_names, pairs, strict=True)
    }


def over_images(x: Moments, weights: Tensor | None = None) -> Statistics:
    """Computes the mean and the variance of groups of images from the moments of the images.

    Args:
        x: Moments [B, C].
        weights: Weights [R, B]; see `losses.class_moments`. None: all images are one group.

    Returns:
        The statistics [C], or with `weights` [R, C].

    Example:
        >>> over_images(Moments(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [2.0]])))
        Statistics(mean=tensor([2.]), variance=tensor([2.]))
    """
    if weights is not None:
        return Statistics(*losses.class_moments(x, weights))
    mean, variance = losses.class_moments(x, torch.ones(1, len(x), device=x.device))
    return Statistics(mean[0], variance[0])


def moving_average(state: MutableMapping[str, Tensor], key: str, now: Tensor, decay: float, start: str) -> Tensor:
    """Updates a moving average, and returns it with the gradient of the present value.

    Args:
        state: The averages; `key` is updated.
        key: The name of the average.
        now: The present value.
        decay: The decay.
        start: "first": without an average, the present value is the average; "zero": the average starts at 0.

    Returns:
        The average. Its gradient is that of `now`, undiminished, as in the paper.

    Example:
        >>> averages = {}
        >>> [float(moving_average(averages, "a", torch.tensor(value), 0.75, "first")) for value in (4.0, 8.0)]
        [4.0, 5.0]
        >>> float(moving_average({}, "a", torch.tensor(4.0), 0.75, "zero"))
        1.0
    """
    value = now.detach()
    before = state.get(key, value if start == "first" else torch.zeros_like(value))
    state[key] = decay * before + (1 - decay) * value
    return state[key] + now - value
