"""The loss of G-VBSM: cross-entropy, statistics at BatchNorm layers and convolutions, density of each class."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from ddbench import losses
from ddbench.nn import Moments, Statistics, autocast, batch_norms, moments, patch_moments, tap_inputs
from ddbench_gvbsm.statistics import TENSORS

if TYPE_CHECKING:
    from ddbench.api import DistillTask, Teacher, Unit
    from ddbench_gvbsm import GVBSM

DENSITY_SIZE = 32
"""Side to which images are averaged for their Gram matrix, in pixels (released code)."""


def distill(method: GVBSM, task: DistillTask, unit: Unit) -> Tensor:
    """Optimises the images of one unit from noise. In step t, teacher t mod T takes its turn.

    Args:
        method: The hyper-parameters.
        task: The task.
        unit: The unit, of whole classes.

    Returns:
        The images [n, 3, S, S] in [0, 1].
    """
    labels = torch.tensor([slot.label for slot in unit.slots], device=task.device)
    teachers = task.teachers(*method.teachers)
    state: dict[str, Tensor] = {}
    matches = [
        StatisticsMatch(method, teacher, task.tensors("convolutions", number), state, f"{number}/", task.device)
        for number, teacher in enumerate(teachers)
    ]

    def loss(images: Tensor, step: int) -> dict[str, Tensor]:
        view = draw_view(method, task, unit, images, step)
        match = matches[step % len(matches)]
        draws = task.generator("dropped convolutions", unit.index, step)
        logits, distance = match.distance(view, task.precision, draws)
        return {
            "cross_entropy": losses.cross_entropy(logits, labels),
            "statistics": method.statistics_weight * distance,
            "density": method.density_weight * density(view, labels, method.temperature),
        }

    return task.optimise(unit, loss, task.noise(unit), method, state)


def draw_view(method: GVBSM, task: DistillTask, unit: Unit, images: Tensor, step: int) -> Tensor:
    """Draws the view of a step: that of `task.view`, or with `padding` one padded crop, flip and roll for all images.

    Args:
        method: The hyper-parameters.
        task: The task.
        unit: The unit.
        images: Normalised images [n, 3, S, S].
        step: The step.

    Returns:
        The view [n, 3, S, S].
    """
    if not method.padding:
        return task.view(unit, images, method, step)
    generator, size = task.generator("padded crop", unit.index, step), images.shape[-1]
    top, left = torch.randint(2 * method.padding + 1, (2,), generator=generator).tolist()
    view = functional.pad(images, [method.padding] * 4)[..., top : top + size, left : left + size]
    if method.flip and torch.rand((), generator=generator) < 0.5:
        view = view.flip(3)
    lowest = -method.jitter if method.centred_jitter else 0
    down, right = torch.randint(lowest, method.jitter + 1, (2,), generator=generator).tolist()
    return view.roll((down, right), (2, 3))


class StatisticsMatch:
    """The distance between the statistics of images and of the real data, at all layers of one teacher.

    Args:
        method: The hyper-parameters.
        teacher: The teacher.
        real: The tensors of the stage `convolutions`.
        state: Holds the moving averages.
        prefix: Prefix of their names.
        device: The device.
    """

    def __init__(
        self,
        method: GVBSM,
        teacher: Teacher,
        real: Mapping[str, Tensor],
        state: MutableMapping[str, Tensor],
        prefix: str,
        device: torch.device,
    ) -> None:
        self._method, self._teacher, self._state, self._prefix, self._device = method, teacher, state, prefix, device
        self.convolutions = list(dict.fromkeys(name.rpartition("/")[0] for name in real))
        self._real = {
            name: _pairs([real[f"{name}/{kind}"].to(device) for kind in TENSORS]) for name in self.convolutions
        }
        means, variances = teacher.running_statistics()
        for name, mean, variance in zip(teacher.bn_names, means, variances, strict=True):
            self._real[name] = [Statistics(mean, variance)]
        layers = batch_norms(teacher.network).keys() | self._real.keys()
        self._first = next(name for name, _ in teacher.network.named_modules() if name in layers)

    def distance(self, view: Tensor, precision: str, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Passes a view through the teacher.

        Args:
            view: Normalised images [n, 3, S, S].
            precision: The precision of the pass.
            draws: Draws the convolutions that are left out.

        Returns:
            A tuple of the logits [n, K] and the distance, a scalar: the unsquared norms of the differences of all means
            and variances, summed over layers.
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
            for kind, (synthetic, real) in enumerate(zip(every, self._real[name], strict=True)):
                actual = over_images(synthetic)
                for moment, now, target in zip(Statistics._fields, actual, real, strict=True):
                    key = f"{self._prefix}{name}/{kind}/{moment}"
                    average = moving_average(self._state, key, now, self._method.ema, self._method.ema_start)
                    total = total + scale * torch.linalg.vector_norm(target - average)
        return output.logits, total


def _pairs(values: list[Tensor]) -> list[Statistics]:
    return [Statistics(*pair) for pair in zip(values[::2], values[1::2], strict=True)]


def over_images(x: Moments) -> Statistics:
    """Computes the mean and the variance of a batch from the moments of its images.

    Args:
        x: Moments [B, C].

    Returns:
        The statistics [C].

    Example:
        >>> over_images(Moments(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [2.0]])))
        Statistics(mean=tensor([2.]), variance=tensor([2.]))
    """
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


def density(images: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Computes the sum over classes of KL(softmax(l / temperature) || softmax(l)), l the eigenvalues of a Gram matrix.

    The target is constant. The Gram matrix is that of the images of a class, averaged to 32 px.

    Args:
        images: Normalised images [n, 3, S, S].
        labels: Their classes [n].
        temperature: The temperature of the target.

    Returns:
        A scalar; 0 for one image per class.
    """
    flat = functional.adaptive_avg_pool2d(images, DENSITY_SIZE).flatten(1)
    total = torch.zeros((), device=images.device, dtype=flat.dtype)
    for label in torch.unique(labels):
        rows = flat[labels == label]
        eigenvalues = torch.linalg.eigvalsh(rows @ rows.T)
        target = torch.softmax(eigenvalues.detach() / temperature, 0)
        total = total + functional.kl_div(eigenvalues.log_softmax(0), target, reduction="sum")
    return total
