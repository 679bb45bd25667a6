"""DM and dm-rbf: a step against brute force in float64, siamese draws, kernels, BatchNorm, faults."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ddbench_dm.matching
import pytest
import torch
from ddbench_dm import DM, IDM, DMRbf
from ddbench_dm.matching import Networks, embedding, kernel_match, mean_distance
from pydantic import ValidationError
from torch import Tensor

from ddbench.api.dataset import DatasetInfo
from ddbench.api.units import Unit, UnitResult
from ddbench.augment.siamese import augment, draw_augmentation
from ddbench.core import seeds
from ddbench.core.errors import DDBenchError
from ddbench.distillation.context import DistillContext
from ddbench.losses.features import mean_match
from ddbench.nn.build import build_network

IPC = 2
SIZE = 8
SMALL: dict[str, Any] = {"network": "convnet-d2", "steps": 3, "real_batch": 12, "learning_rate": 0.3}
STOPPED = {**SMALL, "steps": 9}
POOL: dict[str, Any] = {"pool_size": 3, "pool_interval": 2, "network_steps": 1, "network_batch": 8}

UNIT: Unit = DM().units(10, IPC)[0]


def run(method: DM, task: DistillContext) -> Tensor:
    made = method.distill(task, UNIT)
    if not method.clamp:
        assert isinstance(made, UnitResult)
        assert made.pixels == "unit"
        made = made.images
    assert isinstance(made, Tensor)
    task.checkpoint.clear()  # as the core does
    assert made.shape == (10 * IPC, 3, SIZE, SIZE)
    assert not method.clamp or 0 <= float(made.min()) <= float(made.max()) <= 1
    return made


def gaussian_kernels(a: Tensor, b: Tensor, bandwidths: list[float]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for first in a:
        for second in b:
            squared = (first - second).square().sum()
            total = total + sum(torch.exp(-squared / (2 * s**2)) for s in bandwidths) / (len(a) * len(b))
    return total


def squared_mean_distance(synthetic: Tensor, real: Tensor) -> Tensor:
    return ((real.sum(0) / len(real) - synthetic.sum(0) / len(synthetic)) ** 2).sum()


def squared_mmd(synthetic: Tensor, real: Tensor) -> Tensor:
    distances = [float((a - b).detach().norm()) for i, a in enumerate(real) for b in real[:i]]
    median = sorted(distances)[(len(distances) - 1) // 2]
    bandwidths = [median * 2 ** (power / 2) for power in range(-2, 3)]
    mmd = (
        gaussian_kernels(synthetic, synthetic, bandwidths)
        + gaussian_kernels(real, real, bandwidths)
        - 2 * gaussian_kernels(synthetic, real, bandwidths)
    )
    return mmd / sum(s**-2 for s in bandwidths)


def reporting(losses: list[float]) -> Callable[..., None]:
    return lambda step, total, **metrics: losses.append(metrics["loss"])


def brute_force(
    method: DM, task: DistillContext, distance: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, list[float]]:
    """DM as its released code does it, one class and one image at a time, in float64: pixels and losses."""
    data, mean, deviation = task.dataset, task.dataset.mean.double(), task.dataset.std.double()
    mean, deviation = mean[:, None, None], deviation[:, None, None]

    def seen(index: Tensor) -> Tensor:
        return (data.train.read(index[None])[0][0].double() / 255 - mean) / deviation

    images = []
    for label in range(10):
        rows = data.train.of_class(label)
        order = torch.randperm(len(rows), generator=task.generator("initial", label))
        images += [seen(rows[place]) for place in order[:IPC]]
    velocity = [torch.zeros_like(image) for image in images]
    losses = []
    for step in range(method.steps):
        seed = seeds.derive("distill", task.seed, "network", step)
        network = build_network(method.network, 10, SIZE, seed=seed).double().train()
        pixels = [image.clone().requires_grad_(True) for image in images]
        loss = torch.zeros((), dtype=torch.float64)
        for label in range(10):
            rows = data.train.of_class(label)
            order = torch.randperm(len(rows), generator=task.generator("real", step, label))
            real = torch.stack([seen(rows[place]) for place in order[: method.real_batch]])
            synthetic = torch.stack(pixels[label * IPC : (label + 1) * IPC])
            if method.strategy is not None:
                draws = task.generator("augmentation", step, label)
                drawn = draw_augmentation(method.strategy, SIZE, draws)
                real, synthetic = augment(real, drawn), augment(synthetic, drawn)
            features: Any = network.features
            embed = [torch.stack([features(image[None]).flatten() for image in half]) for half in (synthetic, real)]
            loss = loss + distance(*embed)
        losses.append(float(loss.detach()))
        for number, gradient in enumerate(torch.autograd.grad(loss, pixels)):
            velocity[number] = method.momentum * velocity[number] + gradient
            moved = images[number] - method.learning_rate * velocity[number]
            images[number] = ((moved * deviation + mean).clamp(0, 1) - mean) / deviation if method.clamp else moved
    return torch.stack([image * deviation + mean for image in images]), losses


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize(("kind", "distance"), [(DM, squared_mean_distance), (DMRbf, squared_mmd)])
def test_steps_are_those_of_the_loop_over_classes(
    make_task: Callable[..., DistillContext],
    monkeypatch: pytest.MonkeyPatch,
    kind: type[DM],
    distance: Callable[[Tensor, Tensor], Tensor],
    clamp: bool,
) -> None:
    """However many classes go through the network at once: the same losses and the same pixels."""
    method, task = kind(**SMALL, clamp=clamp), make_task()
    expected, expected_losses = brute_force(method, task, distance)
    assert clamp != (float(expected.min()) < 0 or float(expected.max()) > 1)
    start = task.dataset.train.centre(initial_indices(task), SIZE).double() / 255
    assert float((expected - start).norm()) > 0.1
    monkeypatch.setattr(ddbench_dm.matching, "REPORT_EVERY", 1)
    for together in (1, 5 * SIZE**2, 30 * SIZE**2, 2**20):
        monkeypatch.setattr(ddbench_dm.matching, "PIXELS_PER_PASS", {"cpu": together})
        losses: list[float] = []
        actual = run(method, make_task(report=reporting(losses)))
        assert losses == pytest.approx(expected_losses, rel=1e-3)
        assert float((actual - expected).norm() / (expected - start).norm()) < 0.01


def initial_indices(task: DistillContext) -> Tensor:
    rows = [task.dataset.train.of_class(label) for label in range(10)]
    orders = [torch.randperm(len(m), generator=task.generator("initial", k)) for k, m in enumerate(rows)]
    return torch.cat([m[order[:IPC]] for m, order in zip(rows, orders, strict=True)])


def test_real_images_are_shown_as_the_synthetic_ones_are(
    make_task: Callable[..., DistillContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the synthetic images of a class are its real batch, nothing is left to match, whatever is drawn."""
    method, task = DM(**SMALL), make_task()
    networks = Networks(method, task)
    images = [torch.randn(4, 3, SIZE, SIZE, generator=seeds.generator("siamese", k)) for k in range(10)]
    seen: list[Tensor] = []

    def embed(batch: Tensor) -> Tensor:
        seen.append(batch)
        return batch.flatten(1)

    monkeypatch.setattr(ddbench_dm.matching, "embedding", lambda network: embed)
    operations = set()
    for step in range(8):
        synthetic = [image.clone().requires_grad_(True) for image in images]
        loss = ddbench_dm.matching.match(method, task, step, images, synthetic, mean_distance, networks, 1)
        assert float(loss) == 0
        assert all(not image.grad.any() for image in synthetic if image.grad is not None)
        operations |= {
            draw_augmentation(DM().strategy or "", SIZE, task.generator("augmentation", step, k)).operation
            for k in range(10)
        }
    assert len(operations) == 6
    shown = [torch.equal(batch, image) for batch, image in zip(seen[0::2], images * 8, strict=True)]
    assert shown.count(False) > 60  # and they were augmented: only a flip that was not drawn leaves them
    assert all(torch.equal(real, synthetic) for real, synthetic in zip(seen[0::2], seen[1::2], strict=True))


def test_each_class_and_step_has_a_draw_of_its_own(make_task: Callable[..., DistillContext]) -> None:
    task = make_task()
    drawn = {
        tuple(draw_augmentation("crop", 32, task.generator("augmentation", step, label)).parameters[0].tolist())
        for step in range(10)
        for label in range(10)
    }
    assert len(drawn) > 40  # of 81 places


def test_wide_kernels_see_the_means_alone() -> None:
    generator = seeds.generator("wide")
    synthetic, real = (torch.randn(n, 7, dtype=torch.float64, generator=generator) + n for n in (3, 9))
    wide = kernel_match(synthetic, real, (1e3, 2e3))
    assert float(wide) == pytest.approx(float(squared_mean_distance(synthetic, real)), rel=1e-3)


def test_kernels_see_what_means_do_not() -> None:
    real = torch.tensor([[-2.0], [2.0], [-1.0], [1.0]])
    synthetic = torch.zeros(2, 1)
    assert float(mean_match(synthetic, real)) == 0
    assert float(kernel_match(synthetic, real, (0.5, 1.0))) > 0.1


@pytest.mark.parametrize("network", ["convnet-bn-d2", "convnet-d2", "resnet18"])
def test_embeddings_feed_the_classifier_and_batchnorm_sees_the_batch(network: str) -> None:
    built = build_network(network, 10, SIZE, seed=1)
    images = torch.randn(6, 3, SIZE, SIZE, generator=seeds.generator("embedding"))
    with torch.no_grad():
        expected = built.train()(images)  # no dropout in these
        embed = embedding(built)
        classifier: Any = built.classifier if hasattr(built, "classifier") else built.fc
        actual = embed(images)
    torch.testing.assert_close(classifier(actual), expected, rtol=1e-3, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in built.parameters())


def test_dropout_is_off() -> None:
    images = torch.randn(2, 3, 32, 32, generator=seeds.generator("dropout"))
    with torch.no_grad():
        embed = embedding(build_network("vgg11_bn", 10, 32, seed=1))
        state = torch.get_rng_state()
        assert torch.equal(embed(images), embed(images))
    assert torch.equal(torch.get_rng_state(), state)


def test_batchnorm_has_all_classes_together(
    make_task: Callable[..., DistillContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As released: the statistics of a class alone would take out what tells it from the others."""
    monkeypatch.setattr(ddbench_dm.matching, "PIXELS_PER_PASS", {"cpu": 5 * SIZE**2})
    sizes: list[int] = []
    real_embedding = embedding

    def watched(network: torch.nn.Module) -> Callable[[Tensor], Tensor]:
        network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
        return real_embedding(network)

    monkeypatch.setattr(ddbench_dm.matching, "embedding", watched)
    run(DM(**{**SMALL, "network": "convnet-bn-d2", "steps": 1}), make_task())
    assert sizes == [120, 20]
    sizes.clear()
    task = make_task()
    run(DM(**{**SMALL, "network": "convnet-bn-d2", "steps": 1, "real_batch": 10_000}), task)
    assert sizes == [len(task.dataset.train), 20]
    sizes.clear()
    run(DM(**{**SMALL, "steps": 1}), make_task(1))
    assert sizes == [5, 5, 2, 5, 5, 2, 2 * IPC] * 5


def test_a_class_smaller_than_the_batch_gives_all_it_has(make_task: Callable[..., DistillContext]) -> None:
    task = make_task()
    counts = [len(task.dataset.train.of_class(label)) for label in range(10)]
    classes = [task.dataset.train.of_class(label) for label in range(10)]
    method = DM(**{**SMALL, "real_batch": max(counts) - 1})
    (pixels,) = ddbench_dm.matching.real_batches(method, task, start=method.steps - 1)
    assert len(pixels) == sum(min(count, method.real_batch) for count in counts)
    first = pixels[: counts[0]] if counts[0] < max(counts) else pixels[: counts[0] - 1]
    uninterrupted = task.dataset.train.centre(classes[0], SIZE).flatten(1).tolist()
    assert all(row in uninterrupted for row in first.flatten(1).tolist())


@pytest.mark.slow
def test_matching_brings_the_means_nearer(make_task: Callable[..., DistillContext]) -> None:
    """Under a network that no step has seen."""
    task = make_task()
    embed = embedding(build_network("convnet-d2", 10, SIZE, seed=12345))

    def distance(pixels: Tensor) -> float:
        total = 0.0
        with torch.no_grad():
            for label in range(10):
                real = task.dataset.evaluation_view("train", task.dataset.train.of_class(label))
                made = task.dataset.normalise(pixels[label * IPC : (label + 1) * IPC])
                total += float(mean_match(embed(made), embed(real)))
        return total

    start = task.dataset.train.centre(initial_indices(task), SIZE) / 255
    settings = {**SMALL, "steps": 15, "real_batch": 30, "learning_rate": 2.0}
    assert distance(run(DM(**settings), task)) < 0.6 * distance(start)
    assert distance(run(DMRbf(**settings), make_task(1))) < 0.8 * distance(start)


@pytest.mark.parametrize("kind", [DM, DMRbf])
def test_the_seed_fixes_the_bytes(make_task: Callable[..., DistillContext], kind: type[DM]) -> None:
    method = kind(**SMALL)
    first = run(method, make_task())
    assert torch.equal(first, run(method, make_task()))
    assert not torch.equal(first, run(method, make_task(1)))


def test_noise_starts_from_the_noise_of_each_slot(make_task: Callable[..., DistillContext]) -> None:
    task = make_task()
    actual = run(DM(**{**SMALL, "initial": "noise", "learning_rate": 1e-12, "steps": 1}), task)
    deviation, mean = task.dataset.std.view(3, 1, 1), task.dataset.mean.view(3, 1, 1)
    torch.testing.assert_close(actual, (task.noise(UNIT) * deviation + mean).clamp(0, 1))


@pytest.mark.parametrize(
    "method", [DM(**STOPPED), DMRbf(**STOPPED), IDM(**STOPPED, **POOL, clamp=False)], ids=lambda method: method.name
)
def test_a_run_that_was_stopped_ends_with_the_same_bytes(
    make_task: Callable[..., DistillContext], monkeypatch: pytest.MonkeyPatch, method: DM
) -> None:
    monkeypatch.setattr(ddbench_dm.matching, "REPORT_EVERY", 1)
    uninterrupted = run(method, make_task())

    def stop(step: int, total: int, **metrics: float) -> None:
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(method, make_task(report=stop))
    steps: list[int] = []
    task = make_task(report=lambda step, total, **metrics: steps.append(step))
    assert torch.equal(run(method, task), uninterrupted)
    assert steps == [7, 8, 9]  # from the checkpoint of step 6
    assert task.timing["steps"] == 9


def test_a_loss_that_is_not_finite_is_named(
    make_task: Callable[..., DistillContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the step lies between two looks at the numbers."""
    fresh = ddbench_dm.matching.fresh_network

    def broken(method: DM, task: DistillContext, step: int) -> torch.nn.Module:
        network = fresh(method, task, step)
        if step == 4:
            for parameter in network.parameters():
                torch.nn.init.constant_(parameter, math.nan)
        return network

    monkeypatch.setattr(ddbench_dm.matching, "fresh_network", broken)
    task = make_task()
    object.__setattr__(task, "checkpoint_every", 3)
    with pytest.raises(DDBenchError, match="not finite at step 5;"):
        run(DM(**{**SMALL, "steps": 12}), task)
    content = task.checkpoint.load()
    assert content is not None
    assert (content[1]["step"], bool(content[0]["images"].isfinite().all())) == (3, True)


def test_what_cannot_be_is_refused(make_task: Callable[..., DistillContext]) -> None:
    info = DatasetInfo("two", ("cat", "dog"), ("cat", "dog"), (9, 4), (1, 1), SIZE, "")
    assert DM().skip(info, 4) is None
    assert "'dog'" in (DM().skip(info, 5) or "")
    assert DM(initial="noise").skip(info, 5) is None
    single = DatasetInfo("two", ("cat", "dog"), ("cat", "dog"), (9, 1), (1, 1), SIZE, "")
    assert DM().skip(single, 1) is None
    assert "class 'dog' has 1 training image" in (DMRbf().skip(single, 1) or "")
    assert "'dog'" in (DMRbf().skip(info, 5) or "")
    for wrong in ({"bandwidths": ()}, {"bandwidths": (1.0, 0.0)}, {"strategy": "crop_flop"}, {"real_batch": 1}):
        with pytest.raises(ValidationError):
            DMRbf.model_validate(wrong)
    with pytest.raises(DDBenchError, match="unknown network 'convnet-d9'"):
        run(DM(**{**SMALL, "network": "convnet-d9"}), make_task())
