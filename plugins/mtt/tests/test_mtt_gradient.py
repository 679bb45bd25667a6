"""The gradient of trajectory matching: equal to that of plain unrolling in float64, in memory that is flat in N."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from ddbench_mtt.gradient import Matched, Synthetic, TrainingLoss, match_trajectory
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from ddbench.augment import augment, draw_augmentation
from ddbench.nn import build_network

CLASSES, IPC, SIZE = 3, 2, 8
LABELS = torch.arange(CLASSES).repeat_interleave(IPC)
STRATEGY = "color_crop_cutout_flip_scale_rotate"

Problem = tuple[TrainingLoss, Tensor, Tensor, Synthetic, Tensor]


def vector(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])


@pytest.fixture(scope="module")
def problem() -> Problem:
    """The training loss of a ConvNet on augmented images, start, target, images and rate, in float64."""
    network = build_network("convnet-d2", CLASSES, SIZE, seed=0).double()
    own = dict(network.named_parameters())
    draw = torch.Generator().manual_seed(1)
    views = [draw_augmentation(STRATEGY, SIZE, torch.Generator().manual_seed(step), 4) for step in range(16)]
    rows = [torch.randperm(len(LABELS), generator=draw)[:4] for _ in range(16)]

    def training_loss(step: int, parameters: Tensor, synthetic: Synthetic) -> Tensor:
        pieces = parameters.split([value.numel() for value in own.values()])
        replaced = {name: piece.view_as(own[name]) for name, piece in zip(own, pieces, strict=True)}
        batch = augment(synthetic["images"][rows[step]], views[step])
        soft = synthetic["labels"][rows[step]].softmax(1) if "labels" in synthetic else None
        logits = functional_call(network, replaced, (batch,))
        return functional.cross_entropy(logits, LABELS[rows[step]] if soft is None else soft)

    start, target = vector(network), vector(build_network("convnet-d2", CLASSES, SIZE, seed=1).double())
    images = torch.randn(len(LABELS), 3, SIZE, SIZE, dtype=torch.float64, generator=draw)
    rate = torch.tensor(0.05, dtype=torch.float64)
    return training_loss, start, start + 0.1 * (target - start), {"images": images}, rate


@pytest.fixture(scope="module")
def soft_problem(problem: Problem) -> Problem:
    """The same with soft labels."""
    loss, start, target, synthetic, rate = problem
    labels = torch.randn(len(LABELS), CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return loss, start, target, {**synthetic, "labels": labels}, rate


def unrolled(
    loss: TrainingLoss, start: Tensor, target: Tensor, synthetic: Synthetic, rate: Tensor, steps: int
) -> Matched:
    """The same by one graph of all steps, as in the released code of MTT."""
    leaves = {name: value.clone().requires_grad_(True) for name, value in {**synthetic, "rate": rate}.items()}
    parameters = start.clone().requires_grad_(True)
    for step in range(steps):
        (gradient,) = torch.autograd.grad(loss(step, parameters, leaves), parameters, create_graph=True)
        parameters = parameters - leaves["rate"] * gradient
    distance = (parameters - target).square().sum() / (start - target).square().sum()
    gradients = torch.autograd.grad(distance, tuple(leaves.values()))
    return Matched(distance.detach(), dict(zip(leaves, gradients, strict=True)))


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize(("labels", "steps"), [("classes", 1), ("classes", 5), ("soft", 5)])
def test_the_gradient_is_that_of_plain_unrolling(
    problem: Problem, soft_problem: Problem, labels: str, steps: int
) -> None:
    given = soft_problem if labels == "soft" else problem
    actual, expected = (compute(*given, steps=steps) for compute in (match_trajectory, unrolled))
    assert relative(actual.loss, expected.loss) < 1e-9
    assert list(actual.gradients) == ["images", *(["labels"] if labels == "soft" else []), "rate"]
    for name, value in actual.gradients.items():
        assert relative(value, expected.gradients[name]) < 1e-9, name
        assert float(value.abs().max()) > 0


def tesla(loss: TrainingLoss, start: Tensor, target: Tensor, synthetic: Synthetic, rate: Tensor, steps: int) -> Matched:
    """The gradient of TESLA (Cui et al., ICML 2023): each parameter vector counts as a constant in its step."""
    path, gradients, parts = [start], [], []
    for step in range(steps):
        parameters, pixels = path[-1].detach().requires_grad_(True), synthetic["images"].detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(step, parameters, {"images": pixels}), parameters, create_graph=True)
        gradients.append(gradient.detach())
        parts.append((gradient, pixels))
        path.append(path[-1] - rate * gradient.detach())
    scale, error = (start - target).square().sum(), path[-1] - target
    to_images = sum(
        torch.autograd.grad(-2 * rate * (error @ gradient) / scale, pixels)[0] for gradient, pixels in parts
    )
    assert isinstance(to_images, Tensor)
    to_rate = -2 * error @ torch.stack(gradients).sum(0) / scale
    return Matched(error.square().sum() / scale, {"images": to_images, "rate": to_rate})


def test_the_gradient_of_tesla_is_another_one_from_the_second_step_on(
    problem: Problem,
) -> None:
    one, exact = tesla(*problem, steps=1), unrolled(*problem, steps=1)
    assert relative(one.gradients["images"], exact.gradients["images"]) < 1e-9
    assert relative(one.gradients["rate"], exact.gradients["rate"]) < 1e-9
    five, exact = tesla(*problem, steps=5), unrolled(*problem, steps=5)
    assert relative(five.loss, exact.loss) < 1e-9
    assert relative(five.gradients["images"], exact.gradients["images"]) > 0.01
    assert relative(five.gradients["rate"], exact.gradients["rate"]) > 0.001


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
    problem: Problem,
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
