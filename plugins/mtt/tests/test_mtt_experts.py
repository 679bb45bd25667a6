"""The stage of the experts: what a training computes, what its key holds, and how it resumes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from ddbench_mtt import DATM, MTT
from ddbench_mtt.experts import Experts, ExpertSettings, snapshot
from ddbench_mtt.flat import SurrogateGap
from ddbench_mtt.training import as_vector, train_expert
from torch import Tensor, nn
from torch.nn import functional

from ddbench.api import Passes, StageRun, interruption, seeds
from ddbench.nn import build_network
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache
from ddbench.storage.checkpoint import Checkpoint

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset

SETTINGS = MTT(
    network="convnet-d1", experts=2, expert_epochs=3, max_start_epoch=2, target_epochs=1, expert_batch=500,
    expert_learning_rate=0.1, expert_momentum=0.5,
)  # fmt: skip
FLAT = DATM(
    network="convnet-d1", experts=1, expert_epochs=1, max_start_epoch=1, initial_max_start_epoch=1,
    target_epochs=1, expert_batch=2000, expert_learning_rate=0.1, expert_rho=0.5, strategy=None,
)  # fmt: skip


class Run:
    """The part of a run that a stage uses, and the epochs that it reports."""

    device = torch.device("cpu")

    def __init__(self, dataset: Dataset, precision: str = "fp32") -> None:
        self.dataset, self.info, self.precision = dataset, dataset.info, precision
        self.epochs: list[int] = []

    def report(self, step: int, total: int, **metrics: float) -> None:
        self.epochs.append(step)


def trained(
    settings: ExpertSettings, dataset: Dataset, checkpoint: Any, part: int = 0, precision: str = "fp32"
) -> tuple[dict[str, Tensor], dict[str, Any], Run]:
    run = Run(dataset, precision)
    return *train_expert(settings, cast(StageRun, run), part, checkpoint), run


def test_an_expert_is_sgd_at_a_constant_rate_with_a_snapshot_per_epoch(
    digits_at: Callable[..., Dataset], tmp_path: Path
) -> None:
    dataset = digits_at(8)
    settings = SETTINGS.model_copy(update={"strategy": None})
    snapshots, facts, _ = trained(settings, dataset, Checkpoint(tmp_path / "c"), part=1)
    network = build_network("convnet-d1", 10, 8, seed=seeds.derive("expert", 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.5)
    images, labels = dataset.evaluation_view("train", torch.arange(len(dataset.train))), dataset.train.labels
    expected = [as_vector(network)]
    for epoch in range(3):
        order = torch.randperm(len(labels), generator=seeds.generator("expert", 1, epoch, "order"))
        for rows in order.split(500):
            optimizer.zero_grad()
            functional.cross_entropy(network(images[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        expected.append(as_vector(network))
    assert list(snapshots) == [snapshot(epoch) for epoch in range(4)]
    for actual, one in zip(snapshots.values(), expected, strict=True):
        torch.testing.assert_close(actual, one, rtol=1e-4, atol=1e-5)
    assert 30 < facts["top1"] <= 100


def test_a_training_that_is_stopped_in_an_epoch_and_killed_after_one_ends_with_the_same_snapshots(
    digits_at: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, file = digits_at(8), tmp_path / "part"
    whole, _, _ = trained(SETTINGS, dataset, Checkpoint(tmp_path / "whole"))
    monkeypatch.setattr("ddbench.training.loop.SAVE_SECONDS", 0.0)

    class Killed(Checkpoint):
        def save(self, tensors: dict[str, Tensor], meta: Mapping[str, Any]) -> None:
            super().save(tensors, meta)
            raise KeyboardInterrupt

    class Stopping(Run):
        def report(self, step: int, total: int, **metrics: float) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(interruption.Stopped), interruption.handle_signals():
        train_expert(SETTINGS, cast(StageRun, Stopping(dataset)), 0, Checkpoint(file))
    saved = Checkpoint(file).load()
    assert saved is not None
    kept = [name for name in saved[0] if name.startswith("other/")]
    assert (saved[1]["epoch"], kept, len(saved[0]["epoch/losses"])) == (1, [f"other/{snapshot(n)}" for n in (0, 1)], 1)
    with pytest.raises(KeyboardInterrupt):
        trained(SETTINGS, dataset, Killed(file))
    parts, _, run = trained(SETTINGS, dataset, Checkpoint(file))
    assert run.epochs == [3]
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)


def test_experts_differ_by_their_number(digits_at: Callable[..., Dataset], tmp_path: Path) -> None:
    short = SETTINGS.model_copy(update={"expert_epochs": 1})
    first, second = (trained(short, digits_at(8), Checkpoint(tmp_path / str(part)), part)[0] for part in (0, 1))
    assert not torch.equal(first[snapshot(0)], second[snapshot(0)])
    assert not torch.equal(first[snapshot(1)], second[snapshot(1)])


def keys(tmp_path: Path, *assignments: str, method: str = "mtt", ipc: int = 1, **options: Any) -> list[str]:
    request = Request((method,), ("digits",), (ipc,), ("smoke",), assignments=assignments, device="cpu", **options)
    cells = experiments(request, PluginRegistry())
    workspace = Workspace(PluginRegistry(), Cache(tmp_path), None)
    pipelines = [Pipeline(workspace, cell) for cell in cells]
    return [pipeline.cache_key("experts", part) for pipeline in pipelines for part in pipeline.parts_of("experts")]


def test_the_key_holds_the_training_and_nothing_of_the_distillation(tmp_path: Path) -> None:
    base = keys(tmp_path)
    assert len(set(base)) == len(base) == 2
    assert keys(tmp_path, ipc=10) == keys(tmp_path, seed=3) == base
    assert keys(tmp_path, "method.iterations=9", "method.student_steps=7", "method.learning_rate=3") == base
    assert keys(tmp_path, "method.experts=3")[:2] == base
    for name, value in (("expert_epochs", 3), ("expert_batch", 8), ("network", "convnet-d2"), ("strategy", "flip")):
        assert not set(keys(tmp_path, f"method.{name}={value}")) & set(base)


def test_experts_of_datm_are_those_of_mtt_without_a_perturbation_and_other_ones_with_one(tmp_path: Path) -> None:
    assert keys(tmp_path, "method.expert_rho=0", "method.expert_alpha=1", method="datm") == keys(tmp_path)
    flat = [keys(tmp_path, *change, method="datm") for change in ((), ("method.expert_alpha=1",))]
    assert len({key for pair in (*flat, keys(tmp_path)) for key in pair}) == 6


def test_the_gradient_of_a_flat_path_is_that_of_the_definition() -> None:
    """For the loss w A w / 2 of a vector w: the gradient at w is A w."""
    draw = torch.Generator().manual_seed(0)
    weights, matrix = (torch.randn(*shape, dtype=torch.float64, generator=draw) for shape in ((4,), (4, 4)))
    matrix = matrix @ matrix.T
    network = nn.Linear(3, 1).double()

    @torch.no_grad()
    def place(vector: Tensor) -> None:
        network.weight.copy_(vector[None, :3])
        network.bias.copy_(vector[3:])

    def compute() -> Tensor:
        network.zero_grad()
        vector = torch.cat([network.weight.flatten(), network.bias])
        loss = vector @ matrix @ vector / 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    place(weights)
    loss = SurrogateGap(rho=0.5, alpha=0.3)(network, compute)
    g = matrix @ weights
    h = matrix @ (weights + 0.5 * weights**2 * g / (weights * g).norm())
    expected = h - 0.3 * (g - (g @ h) / (h @ h) * h)
    assert network.weight.grad is not None
    assert network.bias.grad is not None
    torch.testing.assert_close(torch.cat([network.weight.grad.flatten(), network.bias.grad]), expected)
    assert torch.equal(as_vector(network), weights)
    assert float(loss) == pytest.approx(float(weights @ matrix @ weights / 2))


def test_a_flat_expert_takes_the_steps_of_sgd_with_that_gradient(
    digits_at: Callable[..., Dataset], tmp_path: Path
) -> None:
    dataset = digits_at(8)
    snapshots, _, run = trained(FLAT, dataset, Checkpoint(tmp_path / "c"))
    network = build_network("convnet-d1", 10, 8, seed=seeds.derive("expert", 0))
    images, labels = dataset.evaluation_view("train", torch.arange(len(dataset.train))), dataset.train.labels

    def compute() -> Tensor:
        network.zero_grad()
        loss = functional.cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    SurrogateGap(0.5, 0.3)(network, compute)
    torch.optim.SGD(network.parameters(), lr=0.1).step()
    torch.testing.assert_close(snapshots[snapshot(1)], as_vector(network), rtol=1e-4, atol=1e-5)
    run_of_datm: Any = run
    run_of_datm.method = FLAT
    assert Experts().cost(run_of_datm, 0).passes == (Passes(2 * len(labels), precision="fp32"),)


def test_the_gradients_of_a_flat_expert_are_those_of_float32_in_every_precision(
    digits_at: Callable[..., Dataset], tmp_path: Path
) -> None:
    one, other = (
        trained(FLAT, digits_at(8), Checkpoint(tmp_path / name), precision=name)[0] for name in ("fp32", "bf16")
    )
    assert torch.equal(one[snapshot(1)], other[snapshot(1)])


def test_the_estimate_counts_every_image_once_per_epoch(digits_at: Callable[..., Dataset]) -> None:
    run: Any = Run(digits_at(8))
    run.method = SETTINGS
    assert Experts().cost(run, 0).passes == (Passes(3 * len(run.dataset.train)),)
    assert Experts().count(run) == 2
