"""IDM: the loss and steps against the released computation in float64, the pool, recipes, a run and its export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ddbench_dm import IDM
from ddbench_dm.pool import NetworkPool, embedding_and_logits, idm_distance
from torch import Tensor, nn
from torch.nn import functional

import ddbench
from ddbench.api.units import UnitResult
from ddbench.augment.siamese import augment, draw_augmentation
from ddbench.core import seeds
from ddbench.distillation.context import DistillContext
from ddbench.nn.build import build_network
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.stages.evaluate import Evaluate
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache

IPC = 2
SIZE = 8
SMALL: dict[str, Any] = {
    **{"network": "convnet-d2", "steps": 4, "real_batch": 4, "learning_rate": 0.05, "clamp": False},
    **{"class_weight": 3.0, "pool_size": 3, "pool_interval": 2, "trained_networks": 2},
    **{"network_steps": 2, "network_batch": 8},
}
MakeTask = Callable[..., DistillContext]


def quarters(images: Tensor) -> Tensor:
    """The order of the released code: top left, bottom left, top right, bottom right of all images."""
    half = images.shape[2] // 2
    rows, columns = (slice(None, half), slice(half, None)), (slice(None, half), slice(half, None))
    parts = [images[:, :, row, column] for column in columns for row in rows]
    return torch.cat([functional.interpolate(part, scale_factor=2, mode="bilinear") for part in parts])


def released_loss(network: Any, real: Tensor, synthetic: Tensor, label: int, weight: float) -> Tensor:
    """The loss of one class as the released code adds it up, for augmented real and synthetic images."""
    real_mean, mean = (network.features(images).flatten(1).mean(0) for images in (real, synthetic))
    logits = network(synthetic)
    entropy = -(logits - logits.exp().sum(1, keepdim=True).log())[:, label].mean()
    return ((real_mean - mean) ** 2).sum() + weight * entropy


def test_the_loss_and_its_gradient_are_those_of_the_released_code() -> None:
    network = build_network("convnet-d2", 10, SIZE, seed=1).double()
    draws = seeds.generator("idm")
    real, synthetic = (torch.randn(n, 3, SIZE, SIZE, dtype=torch.float64, generator=draws) for n in (5, 2))
    synthetic.requires_grad_(True)
    expected = released_loss(network, real, synthetic, 3, 12.5)
    (gradient,) = torch.autograd.grad(expected, synthetic)
    embed = embedding_and_logits(network)
    actual = idm_distance(embed(synthetic), embed(real), 3, 10, 12.5)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(torch.autograd.grad(actual, synthetic)[0], gradient, rtol=1e-9, atol=1e-12)


class Member:
    """A network of the reference, with the optimiser of the released code."""

    def __init__(self, seed: int) -> None:
        self.network: Any = build_network("convnet-d2", 10, SIZE, seed=seed).double()
        rates: dict[str, float] = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
        self.optimizer = torch.optim.SGD(self.network.parameters(), **rates)
        self.accuracy = 0.0

    def train(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        hits = []
        for images, labels in batches:
            logits = self.network(images)
            self.optimizer.zero_grad()
            functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            hits.append((logits.argmax(1) == labels).double())
        self.accuracy = 100 * float(torch.cat(hits).mean())


def brute_force(method: IDM, task: DistillContext) -> Tensor:
    """IDM as its released code does it, in float64; one step on all classes, and the draws of the method."""
    data, mean, deviation = task.dataset, task.dataset.mean.double(), task.dataset.std.double()
    mean, deviation = mean[:, None, None], deviation[:, None, None]

    def seen(indices: Tensor) -> Tensor:
        return (data.train.read(indices)[0].double() / 255 - mean) / deviation

    images = torch.empty(10 * IPC, 3, SIZE, SIZE, dtype=torch.float64)
    for label in range(10):
        own, half = images[label * IPC : (label + 1) * IPC], SIZE // 2
        for part in range(4):
            whole = seen(task.sample(label, IPC, "initial", part))
            small = functional.interpolate(whole, scale_factor=0.5, mode="bilinear")
            top, left = part // 2 * half, part % 2 * half
            own[:, :, top : top + half, left : left + half] = small
    velocity, members = torch.zeros_like(images), [Member(seed_of(task, number)) for number in range(3)]
    for step in range(method.steps):
        if step % method.pool_interval == 0:
            members.append(Member(seed_of(task, 3 + step // method.pool_interval)))
        first = max(0, len(members) - method.pool_size)
        alive = members[first:]
        member = alive[int(torch.randint(len(alive), (1,), generator=task.generator("pool", "match", step)))]
        pixels, loss = images.clone().requires_grad_(True), torch.zeros((), dtype=torch.float64)
        for label in range(10):
            drawn = draw_augmentation(str(method.strategy), SIZE, task.generator("augmentation", step, label))
            real = augment(seen(task.sample(label, method.real_batch, "real", step)), drawn)
            synthetic = augment(quarters(pixels[label * IPC : (label + 1) * IPC]), drawn)
            weight = method.class_weight * member.accuracy
            loss = loss + released_loss(member.network, real, synthetic, label, weight)
        velocity = method.momentum * velocity + torch.autograd.grad(loss, pixels)[0]
        images = images - method.learning_rate * velocity
        order = torch.randperm(len(alive), generator=task.generator("pool", "train", step))
        for place in order[: method.trained_networks].tolist():
            draws = [task.generator("pool", "batch", step, first + place, b) for b in range(method.network_steps)]
            rows = [torch.randperm(len(data.train), generator=draw)[: method.network_batch] for draw in draws]
            alive[place].train([(seen(part), data.train.labels[part]) for part in rows])
    return images * deviation + mean


def seed_of(task: DistillContext, number: int) -> int:
    return seeds.derive("distill", task.seed, "network", number)


def run(method: IDM, task: DistillContext) -> Tensor:
    made = method.distill(task, method.units(10, IPC)[0])
    task.checkpoint.clear()  # as the core does
    assert isinstance(made, UnitResult)
    assert made.images is not None
    return made.images


def test_steps_are_those_of_the_released_loop(make_task: MakeTask) -> None:
    """The pool drops its oldest network, members are trained with momentum, and weigh the class term."""
    method, task = IDM(**SMALL), make_task()
    start = brute_force(method.model_copy(update={"steps": 0}), task)
    expected = brute_force(method, task)
    without = brute_force(method.model_copy(update={"class_weight": 0.0}), task)
    actual = run(method, make_task())
    moved = float((expected - start).norm())
    assert float((expected - without).norm()) > 0.1 * moved > 0.001
    assert float((actual - expected).norm()) < 0.01 * moved


def test_a_network_that_is_used_is_not_trained_in_place(make_task: MakeTask) -> None:
    """And the pool of a step is the same at a second request, as after memory ran out."""
    pool = NetworkPool(IDM(**{**SMALL, "pool_size": 1}), make_task())
    networks = [pool.of_step(0) for _ in range(2)]
    before = nn.utils.parameters_to_vector(networks[0].parameters()).detach().clone()
    assert torch.equal(before, nn.utils.parameters_to_vector(networks[1].parameters()))
    pool.train(0)
    assert torch.equal(before, nn.utils.parameters_to_vector(networks[0].parameters()))
    assert not torch.equal(before, pool.state["pool"][0])
    assert 0 <= float(pool.state["pool_accuracy"][0]) <= 100


def settings(dataset: str, *recipes: str, ipc: int = 10) -> dict[str, Any]:
    (cell,) = experiments(Request(("idm",), (dataset,), (ipc,), recipes), PluginRegistry())
    assert cell.evaluator_name == "dsa"
    return cell.method.model_dump()


def test_recipes_are_those_of_the_released_code() -> None:
    """`uitrbn/IDM:command.txt`, and the defaults of its scripts."""
    expected = IDM().model_dump()
    assert settings("cifar10", "paper") == expected
    assert settings("cifar10", "paper", ipc=1) == {**expected, "real_batch": 5000, "pool_interval": 5}
    assert settings("cifar10", "paper", ipc=50) == {**expected, "class_weight": 0.1}
    assert settings("cifar100", "paper", ipc=10) == {**expected, "class_weight": 0.1, "network_steps": 50}
    assert settings("cifar100", "paper", ipc=50) == {**expected, "class_weight": 0.1}
    assert settings("tiny-imagenet", "paper", ipc=50) == {**expected, "class_weight": 0.8, "network_steps": 50}
    large = {"network": "convnet-d6", "class_weight": 3.0, "pool_size": 50, "pool_interval": 50}
    large |= {"real_batch": 128, "network_batch": 128}
    assert settings("imagenette", "paper") == {**expected, **large}
    changed = {"clamp": False, "learning_rate": 0.4, "momentum": 0.0}
    assert settings("cifar10", "paper", "released") == {**expected, **changed}
    rate, momentum = changed["learning_rate"], changed["momentum"]
    within_a_round = sum(0.2 * 0.5**step for step in range(10))  # the pixels of the first of ten classes
    assert rate / (1 - momentum) == pytest.approx(within_a_round, rel=2e-3)


def test_a_size_that_the_parts_do_not_divide_is_refused(shell: Any) -> None:
    outcome = shell("run", "--method", "idm", "--dataset", "digits", "--ipc", "1", "--image-size", "15", "--dry-run")
    assert outcome.code == 2
    assert "--image-size 15 is not divisible by 2" in outcome.err


def test_estimates_count_the_images_that_students_see(tmp_path: Path) -> None:
    registry = PluginRegistry()
    (cell,) = experiments(Request(("idm",), ("digits",), (2,), ("smoke",)), registry)
    pipeline = Pipeline(Workspace(registry, Cache(tmp_path), None), cell)
    assert pipeline.student_images == 10 * 2 * 4
    assert Evaluate().cost(pipeline, 0).passes[0].images == 80 * 3  # three epochs


@pytest.mark.slow
def test_a_run_and_the_evaluation_of_its_export(shell: Any) -> None:
    """Students of the exported set are those of the run; IPC, bytes and digest count stored images."""
    options = ("--dataset", "digits", "--image-size", "8", "--recipe", "smoke", "--student", "convnet-d2")
    outcome = shell("run", "--method", "idm", "--ipc", "2", *options)
    assert outcome.code == 0, outcome.err
    (path,) = (shell.results / "records").glob("*.json")
    record = json.loads(path.read_text())
    assert (record["evaluator"], record["distilled_images"]) == ("dsa", 20)
    assert record["distilled_form"] == {"decode_factor": 2}
    assert (record["metrics"]["image_bytes"], record["metrics"]["label_bytes"]) == (20 * 3 * 8 * 8, 20 * 8)
    outcome = shell("export", record["name"], "--format", "safetensors", "--output", "set")
    assert outcome.code == 0, outcome.err
    outcome = shell("evaluate", "set", *options, "--evaluator", "dsa", "--no-random")
    assert outcome.code == 0, outcome.err
    assert "each image holds 2 x 2 images" in outcome.err + outcome.out
    records = [json.loads(path.read_text()) for path in (shell.results / "records").glob("*.json")]
    assert len(records) == 2
    assert len({one["distilled_digest"] for one in records}) == 1
    assert len({(one["ipc"], one["metrics"]["top1_last"]) for one in records}) == 1
    loaded = ddbench.load(shell.root / "set", cache_dir=shell.cache)
    assert (len(loaded), loaded.labels.tolist()) == (80, [label for label in range(10) for _ in range(8)])
