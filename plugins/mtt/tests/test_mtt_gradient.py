"""The gradient of trajectory matching: equal to that of plain unrolling in float64, in memory that is flat in N."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from ddbench_mtt.gradient import Matched, TrainingLoss, match_trajectory
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from ddbench.augment import augment, draw_augmentation
from ddbench.nn import build_network

CLASSES, IPC, SIZE = 3, 2, 8
LABELS = torch.arange(CLASSES).repeat_interleave(IPC)
STRATEGY = "color_crop_cutout_flip_scale_rotate"


def vector(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])


@pytest.fixture(scope="module")
def problem() -> tuple[TrainingLoss, Tensor, Tensor, Tensor, Tensor]:
    """The training loss of a ConvNet on augmented images, start, target, images and rate, in float64."""
    network = build_network("convnet-d2", CLASSES, SIZE, seed=0).double()
    own = dict(network.named_parameters())
    draw = torch.Generator().manual_seed(1)
    views = [draw_augmentation(STRATEGY, SIZE, torch.Generator().manual_seed(step), 4) for step in range(16)]
    rows = [torch.randperm(len(LABELS), generator=draw)[:4] for _ in range(16)]

    def training_loss(step: int, parameters: Tensor, images: Tensor) -> Tensor:
        pieces = parameters.split([value.numel() for value in own.values()])
        replaced = {name: piece.view_as(own[name]) for name, piece in zip(own, pieces, strict=True)}
        logits = functional_call(network, replaced, (augment(images[rows[step]], views[step]),))
        return functional.cross_entropy(logits, LABELS[rows[step]])

    start, target = vector(network), vector(build_network("convnet-d2", CLASSES, SIZE, seed=1).double())
    images = torch.randn(len(LABELS), 3, SIZE, SIZE, dtype=torch.float64, generator=draw)
    return training_loss, start, start + 0.1 * (target - start), images, torch.tensor(0.05, dtype=torch.float64)


def unrolled(loss: TrainingLoss, start: Tensor, target: Tensor, images: Tensor, rate: Tensor, steps: int) -> Matched:
    """The same by one graph of all steps, as in the released code of MTT."""
    images, rate = images.clone().requires_grad_(True), rate.clone().requires_grad_(True)
    parameters = start.clone().requires_grad_(True)
    for step in range(steps):
        (gradient,) = torch.autograd.grad(loss(step, parameters, images), parameters, create_graph=True)
        parameters = parameters - rate * gradient
    distance = (parameters - target).square().sum() / (start - target).square().sum()
    return Matched(distance.detach(), *torch.autograd.grad(distance, (images, rate)))


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("steps", [1, 5])
def test_the_gradient_is_that_of_plain_unrolling(
    problem: tuple[TrainingLoss, Tensor, Tensor, Tensor, Tensor], steps: int
) -> None:
    actual, expected = (compute(*problem, steps=steps) for compute in (match_trajectory, unrolled))
    for name, value in actual._asdict().items():
        assert relative(value, getattr(expected, name)) < 1e-9, name
    assert float(expected.images.abs().min(1).values.max()) > 0


def tesla(loss: TrainingLoss, start: Tensor, target: Tensor, images: Tensor, rate: Tensor, steps: int) -> Matched:
    """The gradient of TESLA (Cui et al., ICML 2023): each parameter vector counts as a constant in its step."""
    path, gradients, parts = [start], [], []
    for step in range(steps):
        parameters, pixels = path[-1].detach().requires_grad_(True), images.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(step, parameters, pixels), parameters, create_graph=True)
        gradients.append(gradient.detach())
        parts.append((gradient, pixels))
        path.append(path[-1] - rate * gradient.detach())
    scale, error = (start - target).square().sum(), path[-1] - target
    to_images = sum(
        torch.autograd.grad(-2 * rate * (error @ gradient) / scale, pixels)[0] for gradient, pixels in parts
    )
    assert isinstance(to_images, Tensor)
    return Matched(error.square().sum() / scale, to_images, -2 * error @ torch.stack(gradients).sum(0) / scale)


def test_the_gradient_of_tesla_is_another_one_from_the_second_step_on(
    problem: tuple[TrainingLoss, Tensor, Tensor, Tensor, Tensor],
) -> None:
    one, exact = tesla(*problem, steps=1), unrolled(*problem, steps=1)
    assert relative(one.images, exact.images) < 1e-9
    assert relative(one.rate, exact.rate) < 1e-9
    five, exact = tesla(*problem, steps=5), unrolled(*problem, steps=5)
    assert relative(five.loss, exact.loss) < 1e-9
    assert relative(five.images, exact.images) > 0.01
    assert relative(five.rate, exact.rate) > 0.001


class Kept:
    """A tensor that a graph keeps. It counts as long as the graph exists."""

    live, peak = 0, 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        Kept.live += tensor.nbytes
        Kept.peak = max(Kept.peak, Kept.live)

    def __del__(self) -> None:
        Kept.live -= self.tensor.nbytes


@contextmanager
def counted() -> Iterator[None]:
    Kept.live = Kept.peak = 0
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        yield


def test_the_bytes_that_graphs_keep_are_flat_in_the_number_of_steps(
    problem: tuple[TrainingLoss, Tensor, Tensor, Tensor, Tensor],
) -> None:
    def peak(compute: Callable[..., Matched], steps: int) -> int:
        with counted():
            compute(*problem, steps=steps)
        assert Kept.live == 0
        return Kept.peak

    assert peak(match_trajectory, 2) == peak(match_trajectory, 12) > 0
    few, many = (peak(unrolled, steps) for steps in (2, 12))
    assert 5 < many / few < 7
    assert peak(match_trajectory, 12) < few
