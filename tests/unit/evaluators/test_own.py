"""The protocols own, mtt and datm-dsa: a plain loop with the set's floats, soft labels and rate; without them: dsa."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ddbench.core import seeds
from ddbench.evaluators.own import DifficultyAlignedLabels, OwnLabels, TrajectoryLabels
from ddbench.evaluators.protocols import SiameseAugmentation
from ddbench.nn.build import build_network
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry

if TYPE_CHECKING:
    from tests.unit.evaluators.conftest import WatchedTask

SETTINGS: dict[str, Any] = {"epochs": 4, "batch_size": 8, "strategy": None}


@pytest.fixture
def make_task(make_task: Callable[..., WatchedTask]) -> Callable[..., WatchedTask]:
    """A task whose teacher must not be asked for."""
    return functools.partial(make_task, _teacher=lambda: pytest.fail("the protocol asked for a teacher"))


def with_parts(task: WatchedTask, pixels: Tensor | None = None, **extras: Tensor) -> WatchedTask:
    """The task with the images of its set stored as floats, and soft labels or a rate."""
    own = replace(task.distilled, stored=pixels, extras=extras)  # type: ignore[type-var]
    return replace(task, distilled=own)


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_the_student_is_that_of_a_plain_loop(make_task: Callable[..., WatchedTask], kind: str) -> None:
    task = make_task()
    draws = torch.Generator().manual_seed(1)
    pixels = 0.5 + torch.randn(20, 3, 8, 8, generator=draws)  # beyond black and white
    soft = torch.randn(20, 10, generator=draws)
    targets = torch.softmax(soft, 1)
    labels = soft if kind == "logits" else targets
    task = with_parts(task, pixels, **{kind: labels, "learning_rate": torch.tensor([0.05], dtype=torch.float64)})
    metrics = OwnLabels(**SETTINGS).evaluate(task)

    network = build_network("convnet-d2", 10, 8, "auto", seeds.derive("student", 0))
    start = {name: value.detach().clone() for name, value in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), momentum=0.9, weight_decay=5e-4)
    weights, seed = task.weights * 2, seeds.derive("student", 0)
    images = (pixels - task.dataset.mean.view(3, 1, 1)) / task.dataset.std.view(3, 1, 1)
    for epoch, rate in enumerate([0.05, 0.05, 0.005, 0.005]):
        for rows in torch.split(torch.randperm(20, generator=seeds.generator("siamese", seed, epoch, "order")), 8):
            optimizer.param_groups[0]["lr"] = rate
            losses = -(network(images[rows]).log_softmax(1) * targets[rows]).sum(1) * weights[rows]
            optimizer.zero_grad()
            losses.mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    (student,) = task.students
    for (name, actual), expected in zip(student.named_parameters(), network.parameters(), strict=True):
        moved = (expected.detach() - start[name]).norm()
        assert float((actual.detach() - expected.detach()).norm() / moved) < 0.01, name
    assert (metrics.regime, metrics.label_bytes) == ("soft", 20 * 10 * 4)
    assert metrics.image_bytes == 4 * 20 * 3 * 8 * 8


def test_cross_entropy_has_the_gradient_of_the_divergence() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    targets = torch.softmax(torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64), 1)
    (first,) = torch.autograd.grad(functional.cross_entropy(logits, targets), logits)
    divergence = functional.kl_div(logits.log_softmax(1), targets, reduction="batchmean")
    (second,) = torch.autograd.grad(divergence, logits)
    torch.testing.assert_close(first, second)


def test_a_plain_set_gives_the_student_of_dsa(make_task: Callable[..., WatchedTask]) -> None:
    settings = {**SETTINGS, "strategy": "crop_flip"}
    first, second = make_task(), make_task()
    assert OwnLabels(**settings).evaluate(first) == SiameseAugmentation(**settings).evaluate(second)
    for one, other in zip(first.students[0].parameters(), second.students[0].parameters(), strict=True):
        assert torch.equal(one, other)


def test_mtt_trains_on_the_classes_and_datm_on_the_soft_labels(make_task: Callable[..., WatchedTask]) -> None:
    """Both at the rate of the set; DATM in batches of 128, which hold the whole set here."""
    soft = torch.randn(20, 10, generator=torch.Generator().manual_seed(1))
    rate = torch.tensor([0.05], dtype=torch.float64)

    def trained(protocol: OwnLabels, **parts: Tensor) -> Tensor:
        task = with_parts(make_task(), **parts)
        protocol.evaluate(task)
        return torch.cat([parameter.detach().flatten() for parameter in task.students[0].parameters()])

    own = OwnLabels(**{**SETTINGS, "batch_size": 20})
    mtt, datm = TrajectoryLabels(**{**SETTINGS, "batch_size": 20}), DifficultyAlignedLabels(epochs=4, strategy=None)
    with_labels, without = trained(own, logits=soft, learning_rate=rate), trained(own, learning_rate=rate)
    assert not torch.equal(with_labels, without)
    assert torch.equal(trained(mtt, logits=soft, learning_rate=rate), without)
    assert torch.equal(trained(datm, logits=soft, learning_rate=rate), with_labels)


@pytest.mark.parametrize(("budget", "epochs"), [("paper", 1000), ("quick", 300), ("smoke", 3)])
def test_recipes_set_the_protocols_as_dsa(budget: str, epochs: int) -> None:
    """MTT's `distill.py` has batches of 256, DATM's `evaluation.py` and configurations of 128."""
    for protocol, batch in ((OwnLabels, 256), (TrajectoryLabels, 256), (DifficultyAlignedLabels, 128)):
        request = Request(("random",), ("imagenette",), (10,), (budget,), evaluators=(protocol.name,))
        (cell,) = experiments(request, PluginRegistry())
        assert cell.evaluator == protocol(epochs=epochs, batch_size=batch)


def test_paper_has_the_size_of_mtt() -> None:
    """`GeorgeCazenavette/mtt-distillation:distill.py`: `--res 128`."""
    request = Request(("random", "mtt"), ("imagefruit",), (1,), ("paper",), evaluators=("mtt",))
    for cell in experiments(request, PluginRegistry()):
        assert (cell.data.image_size, cell.data.stored_size, cell.student) == (128, 128, "convnet-d5")
