"""DC and DSA: the distance and its gradient by hand, the loops, siamese views, resuming."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from ddbench_dc import DC, DSA
from ddbench_dc.matching import Matching, distill, gradient_distance, matched_parameters
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ddbench.api.dataset import DatasetInfo
from ddbench.api.settings import DSA_STRATEGY
from ddbench.api.units import Unit, UnitResult
from ddbench.augment.siamese import augment, draw_augmentation
from ddbench.core.errors import DDBenchError
from ddbench.data.dataset import Dataset
from ddbench.distillation.context import DistillContext
from ddbench.nn.build import build_network
from ddbench.storage.checkpoint import Checkpoint

SIZE = 8
CLASSES = 10
WHOLE_CLASS = 1000  # more than a class of digits has


@pytest.fixture(scope="module")
def digits(digits_at: Callable[..., Dataset]) -> Dataset:
    return digits_at(SIZE)


@dataclasses.dataclass(frozen=True)
class Watched(DistillContext):
    """The real task; what the loop reports is kept by step."""

    distances: dict[int, float] = dataclasses.field(default_factory=dict)


MakeTask = Callable[..., Watched]


@pytest.fixture
def make_task(digits: Dataset, tmp_path: Path) -> MakeTask:
    def make(ipc: int = 2, seed: int = 0, slot: str = "slot", stop_at: int = 0, every: int = 1000) -> Watched:
        distances: dict[int, float] = {}

        def report(step: int, total: int, **metrics: float) -> None:
            distances[step] = metrics["distance"]
            if step == stop_at:
                raise KeyboardInterrupt

        return Watched(
            dataset=digits,
            ipc=ipc,
            seed=seed,
            device=torch.device("cpu"),
            precision="fp32",
            checkpoint=Checkpoint(tmp_path / f"{slot}.safetensors"),
            checkpoint_every=every,
            report=report,
            cached=lambda name, depends_on, fn: fn(),
            statistics=lambda label: pytest.fail("not asked for"),
            timing={},
            _teacher=lambda: pytest.fail("not asked for"),
            distances=distances,
        )

    return make


def unit_of(ipc: int) -> Unit:
    (unit,) = DC().units(CLASSES, ipc)
    return unit


# -- the distance -------------------------------------------------------------------------------------------


def rowwise(first: list[list[list[float]]], second: list[list[list[float]]]) -> float:
    """The distance by its definition: layers of rows of numbers."""
    total = 0.0
    for layers in zip(first, second, strict=True):
        for a, b in zip(*layers, strict=True):
            product = sum(x * y for x, y in zip(a, b, strict=True))
            norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
            total += 1 - product / (norms + 1e-6)
    return total


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-4, 1.0, 100.0]))
def test_distance_is_one_minus_cosine_a_row_summed_over_rows_and_layers(seed: int, scale: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    shapes = [(3, 2, 3, 3), (4, 5), (2, 3, 2), (1, 6)]
    first, second = ([scale * torch.randn(s, generator=draw, dtype=torch.float64) for s in shapes] for _ in range(2))
    expected = rowwise(*([layer.flatten(1).tolist() for layer in side] for side in (first, second)))
    assert float(gradient_distance(first, second)) == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(
        lambda *layers: gradient_distance(layers, second), [layer.requires_grad_(True) for layer in first], atol=1e-4
    )


@pytest.mark.parametrize("zero", [0, 1])
def test_a_row_that_is_zero_on_a_side_counts_one(zero: int) -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    sides = [rows, rows.clone()]
    sides[zero][0] = 0
    assert float(gradient_distance(sides[:1], sides[1:])) == pytest.approx(1, abs=1e-6)


def test_kernels_are_matched_and_vectors_are_not() -> None:
    network = build_network("convnet-d2", CLASSES, SIZE)
    matched = {id(parameter) for parameter in matched_parameters(network)}
    names = {name for name, parameter in network.named_parameters() if id(parameter) in matched}
    assert names == {"features.0.weight", "features.4.weight", "classifier.weight"}
    others = {name for name, _ in network.named_parameters()} - names
    assert {name.split(".")[-1] for name in others} == {"weight", "bias"}  # norm scales, and biases everywhere
    assert "classifier.bias" in others


# -- a network of two layers, by hand -----------------------------------------------------------------------


class TwoLayers(nn.Module):
    """W2 tanh(W1 x + b1) + b2, in float64."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        self.w1 = nn.Parameter(0.1 * torch.randn(5, 3 * SIZE**2, generator=draw, dtype=torch.float64))
        self.b1 = nn.Parameter(torch.randn(5, generator=draw, dtype=torch.float64))
        self.w2 = nn.Parameter(torch.randn(CLASSES, 5, generator=draw, dtype=torch.float64))
        self.b2 = nn.Parameter(torch.randn(CLASSES, generator=draw, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1) @ self.w1.T + self.b1).tanh() @ self.w2.T + self.b2


def gradients_by_hand(network: TwoLayers, images: Tensor, label: int) -> list[Tensor]:
    """Those of the mean cross-entropy in W1 and W2, by the chain rule."""
    w1, b1, w2, b2 = (parameter.detach() for parameter in (network.w1, network.b1, network.w2, network.b2))
    x = images.flatten(1)
    hidden = torch.tanh(x @ w1.T + b1)
    scores = (hidden @ w2.T + b2).exp()
    error = scores / scores.sum(1, keepdim=True)
    error[:, label] -= 1
    error /= len(x)
    return [((error @ w2) * (1 - hidden**2)).T @ x, error.T @ hidden]


class Double(Matching):
    """Real images in float64."""

    def real(self, label: int, count: int, *names: str | int) -> Tensor:
        return super().real(label, count, *names).double()


def test_matching_a_network_of_two_layers_is_what_paper_and_pencil_give(make_task: MakeTask) -> None:
    ipc = 2
    matching = Double(DC(real_batch=7), make_task(ipc), None)
    network = TwoLayers()
    images = torch.randn(CLASSES * ipc, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def distance_of(label: int, synthetic: Tensor) -> float:
        wanted = gradients_by_hand(network, matching.real(label, 7, "real", 4, 1), label)
        actual = gradients_by_hand(network, synthetic, label)
        return rowwise([layer.tolist() for layer in actual], [layer.tolist() for layer in wanted])

    def derivative(image: int, channel: int, row: int, column: int) -> float:
        label, step = image // ipc, 1e-5
        ends = []
        for sign in (1, -1):
            moved = images[label * ipc : (label + 1) * ipc].clone()
            moved[image % ipc, channel, row, column] += sign * step
            ends.append(distance_of(label, moved))
        return (ends[0] - ends[1]) / (2 * step)

    distance, gradient = matching.match(network, images, 4, 1)
    expected = sum(distance_of(label, images[label * ipc : (label + 1) * ipc]) for label in range(CLASSES))
    assert float(distance) == pytest.approx(expected, rel=1e-6)
    assert gradient.shape == images.shape
    scale = float(gradient.abs().max())
    for place in [(0, 0, 3, 4), (1, 2, 0, 0), (7, 1, 5, 2), (12, 0, 7, 7), (19, 2, 4, 1)]:
        assert float(gradient[place]) == pytest.approx(derivative(*place), rel=1e-3, abs=1e-5 * scale)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_steps_at_one_network_bring_the_distance_down(make_task: MakeTask) -> None:
    matching = Matching(DC(real_batch=8), make_task(1), None)
    network, images = build_network("convnet-d1", CLASSES, SIZE, seed=1), matching.initial(unit_of(1))
    seen = []
    for _ in range(25):
        distance, gradient = matching.match(network, images, 0, 0)
        images = images - 0.1 * gradient
        seen.append(float(distance))
    assert seen[-1] < 0.7 * seen[0]
    assert sum(after < before for before, after in pairwise(seen)) >= 20


# -- the loops ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ipc", "loops"),
    [
        *[(1, (1, 1)), (10, (10, 50)), (20, (20, 25)), (30, (30, 20)), (40, (40, 15)), (50, (50, 10))],
        *[(2, (1, 1)), (9, (1, 1)), (15, (10, 50)), (49, (40, 15)), (100, (50, 10))],
    ],
)
def test_loops_are_the_published_ones_of_the_nearest_smaller_ipc(ipc: int, loops: tuple[int, int]) -> None:
    assert DC().loops(ipc) == DSA().loops(ipc) == loops
    assert DC(outer_loop=3).loops(ipc) == (3, loops[1])
    assert DC(inner_loop=0).loops(ipc) == (loops[0], 0)


def test_work_counts_every_image() -> None:
    method = DC(iterations=7, outer_loop=3, inner_loop=5, real_batch=11)
    real, synthetic, trained = 7 * 3 * 4 * 11, 7 * 3 * 4 * 2, 7 * 2 * 5 * 4 * 2
    assert method.image_passes(4, 2) == real + 3 * synthetic + trained


def test_training_is_sgd_on_the_images_and_their_classes(make_task: MakeTask) -> None:
    matching = Matching(DC(network_batch=1000), make_task(3), None)
    network, reference = (build_network("convnet-d1", CLASSES, SIZE, seed=1) for _ in range(2))
    images = torch.randn(30, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.5)
    for epoch in range(2):
        matching.train(network, optimizer, images, 0, 0, epoch)

    labels = torch.tensor([label for label in range(CLASSES) for _ in range(3)])
    parameters, speeds = list(reference.parameters()), [torch.zeros(())] * 6
    for _ in range(2):
        scores = reference(images).log_softmax(1)
        gradients = torch.autograd.grad(-scores[torch.arange(30), labels].mean(), parameters)
        speeds = [0.5 * speed + gradient for speed, gradient in zip(speeds, gradients, strict=True)]
        with torch.no_grad():
            for parameter, speed in zip(parameters, speeds, strict=True):
                parameter.sub_(0.1 * speed)
    for actual, expected in zip(network.parameters(), parameters, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_a_pixel_step_is_sgd_with_momentum_and_pixels_are_clamped_at_the_end(make_task: MakeTask) -> None:
    method = DC(network="convnet-d1", iterations=2, outer_loop=1, real_batch=5, learning_rate=3.0)
    task = make_task(1)
    actual = distill(method, task, unit_of(1))
    matching = Matching(method, task, None)
    images = nn.Parameter(matching.initial(unit_of(1)))
    optimizer = torch.optim.SGD([images], lr=3.0, momentum=0.5)
    for iteration in range(2):
        _, images.grad = matching.match(matching.network(iteration), images.detach(), iteration, 0)
        optimizer.step()
    mean, deviation = (values[:, None, None] for values in (task.dataset.mean, task.dataset.std))
    pixels = images.detach() * deviation + mean
    assert float(pixels.min()) < 0 < 1 < float(pixels.max())
    torch.testing.assert_close(actual, pixels.clamp(0, 1))
    floats = method.model_copy(update={"clamp": False}).distill(make_task(1), unit_of(1))
    assert isinstance(floats, UnitResult)
    assert floats.pixels == "unit"
    assert floats.images is not None
    torch.testing.assert_close(floats.images, pixels)
    assert task.timing["steps"] == 2


def test_every_iteration_has_a_network_of_its_own(make_task: MakeTask) -> None:
    def weights(seed: int, iteration: int) -> Tensor:
        network = Matching(DC(network="convnet-d1"), make_task(seed=seed), None).network(iteration)
        return network.get_parameter("classifier.weight")

    assert torch.equal(weights(0, 3), weights(0, 3))
    assert not torch.equal(weights(0, 3), weights(0, 4))
    assert not torch.equal(weights(0, 3), weights(1, 3))


def test_real_batches_are_of_one_class_without_repetition(make_task: MakeTask) -> None:
    task = make_task()
    matching = Matching(DC(), task, None)
    class_rows = task.dataset.train.of_class(4)
    every = task.dataset.evaluation_view("train", class_rows).flatten(1)
    full_batch = matching.real(4, WHOLE_CLASS, "real", 0, 0).flatten(1)
    assert sorted(full_batch.tolist()) == sorted(every.tolist())
    batch = matching.real(4, 20, "real", 0, 0).flatten(1)
    assert torch.equal(batch, full_batch[:20])
    assert not torch.equal(batch, matching.real(4, 20, "real", 0, 1).flatten(1))


def test_batchnorm_statistics_move_once_towards_real_images_and_stay(make_task: MakeTask) -> None:
    task = make_task()
    matching = Matching(DC(network="convnet-bn-d1"), task, None)
    network: Any = matching.network(0)
    convolution, layer = network.features[0], network.features[1]
    matching.fix_batch_norm(network, 0, 0)
    real = torch.cat([matching.real(label, 16, "batch norm", 0, 0) for label in range(CLASSES)])
    assert len(real) == 160
    with torch.no_grad():
        maps = convolution(real).transpose(0, 1).flatten(1)
    torch.testing.assert_close(layer.running_mean, 0.1 * maps.mean(1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * maps.var(1), rtol=1e-4, atol=1e-6)
    before = {name: value.clone() for name, value in network.named_buffers()}
    images = torch.randn(20, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    matching.match(network, images, 0, 0)
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    matching.fix_batch_norm(network, 0, 1)  # no training between two steps: they move all the same
    assert not torch.equal(layer.running_mean, before["features.1.running_mean"])
    moved = layer.running_mean.clone()
    matching.train(network, torch.optim.SGD(network.parameters(), lr=0.01), images, 0, 0, 0)
    assert not torch.equal(layer.running_mean, moved)


@pytest.mark.slow
def test_the_distance_falls_against_the_gradient_of_a_network_with_attention(make_task: MakeTask) -> None:
    matching = Matching(DC(network="timm/vit_small_patch8_224", real_batch=2), make_task(1), None)
    network = matching.network(0).eval()
    images = torch.randn(CLASSES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    distance, gradient = matching.match(network, images, 0, 0)
    step = 1e-3 * gradient / gradient.norm()
    nearer, farther = (float(matching.match(network, images + by * step, 0, 0)[0]) for by in (-1, 1))
    assert nearer < float(distance) < farther


# -- siamese augmentation -----------------------------------------------------------------------------------


class Twins(Matching):
    """The real batch of a class is its synthetic images, so that only a difference of views is left to see."""

    own_view = False

    def real(self, label: int, count: int, *names: str | int) -> Tensor:
        images = twin_images()[label * self.task.ipc : (label + 1) * self.task.ipc]
        if self.own_view:
            images = augment(images, draw_augmentation(DSA_STRATEGY, SIZE, self.task.generator("own", *names, label)))
        return images


class Strangers(Twins):
    """As Twins, but the real half has already been through a view of its own."""

    own_view = True


def twin_images() -> Tensor:
    return torch.randn(3 * CLASSES, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def test_both_halves_of_a_class_see_the_same_view(make_task: MakeTask) -> None:
    def distances(kind: type[Matching]) -> list[float]:
        matching = kind(DSA(), make_task(3), DSA_STRATEGY)
        return [float(matching.match(TwoLayers(), twin_images(), 0, step)[0]) for step in range(12)]

    assert max(distances(Twins)) < 1 < 10 < min(distances(Strangers))


def test_every_class_and_step_has_a_view_of_its_own(make_task: MakeTask) -> None:
    images = torch.randn(2 * CLASSES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    network = build_network("convnet-d1", CLASSES, SIZE, seed=1)

    def distances(strategy: str | None) -> list[float]:
        matching = Matching(DSA(real_batch=WHOLE_CLASS), make_task(2), strategy)
        return [float(matching.match(network, images, 0, step)[0]) for step in range(3)]

    plain, augmented = distances(None), distances("rotate")
    assert plain == pytest.approx([plain[0]] * 3, rel=1e-4)  # the same images in another order
    assert len({round(distance, 2) for distance in augmented}) == 3


def test_without_a_strategy_dsa_is_dc(make_task: MakeTask) -> None:
    changed = {"network": "convnet-d1", "iterations": 1, "outer_loop": 2, "inner_loop": 1, "real_batch": 9}
    changed |= {"initial": "real", "network_momentum": 0.3}
    plain = DC.model_validate(changed).distill(make_task(2), unit_of(2))
    assert torch.equal(DSA(**changed, strategy=None).distill(make_task(2), unit_of(2)), plain)
    assert not torch.equal(DSA(**changed).distill(make_task(2), unit_of(2)), plain)


# -- as a method among others -------------------------------------------------------------------------------


RESUMED = [
    DC(network="convnet-d1", iterations=4, outer_loop=2, inner_loop=2, real_batch=8),
    DSA(network="convnet-bn-d1", iterations=4, outer_loop=2, inner_loop=2, real_batch=8),
]


@pytest.mark.slow
@pytest.mark.parametrize("method", RESUMED, ids=lambda method: str(method.name))
def test_a_run_that_was_stopped_ends_with_the_same_bytes(make_task: MakeTask, method: DC) -> None:
    untouched = method.distill(make_task(2, slot="untouched"), unit_of(2))
    with pytest.raises(KeyboardInterrupt):
        method.distill(make_task(2, stop_at=6, every=3), unit_of(2))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    resumed = make_task(2, every=3)
    assert torch.equal(method.distill(resumed, unit_of(2)), untouched)
    assert min(resumed.distances) == 5  # step 3 lies in the second iteration, which ends with step 4
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(method.distill(make_task(2, seed=1, slot="other"), unit_of(2)), untouched)


def test_a_networks_own_draws_are_seeded(make_task: MakeTask) -> None:
    method = DC(network="torchvision/squeezenet1_1", iterations=1, outer_loop=1, real_batch=2)
    assert any(isinstance(layer, nn.Dropout) for layer in Matching(method, make_task(1), None).network(0).modules())
    actual = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        actual.append(distill(method, make_task(1), unit_of(1)))
    assert torch.equal(*actual)


def test_a_distance_that_is_not_finite_stops_the_run_and_names_the_step(make_task: MakeTask) -> None:
    method = DC(network="convnet-d1", iterations=3, outer_loop=1, real_batch=4, learning_rate=1e38)
    with pytest.raises(
        DDBenchError, match=r"^dc: the distance of gradients is nan at step [23]; a lower learning_rate"
    ):
        method.distill(make_task(1), unit_of(1))


def test_an_ipc_above_the_smallest_class_is_refused_where_images_start_from_real_ones() -> None:
    info = DatasetInfo("two", ("cat", "dog"), ("cat", "dog"), (9, 4), (1, 1), SIZE, "")
    assert DSA().skip(info, 4) is None
    assert "'dog'" in (DSA().skip(info, 5) or "")
    assert DC().skip(info, 5) is None
