"""The dsa protocol: against a plain loop, what its views are, its schedule, weights, resume, recipes, a run."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional

from ddbench.api.settings import DSA_STRATEGY
from ddbench.augment.siamese import augment, draw_augmentation
from ddbench.core import seeds
from ddbench.core.errors import DDBenchError
from ddbench.distillation.distilled_set import DistilledSet
from ddbench.evaluators.protocols import SiameseAugmentation
from ddbench.nn.build import build_network
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.training.schedules import step_at_half

if TYPE_CHECKING:
    from conftest import Shell
    from tests.unit.evaluators.conftest import WatchedTask


@pytest.fixture
def make_task(make_task: Callable[..., WatchedTask]) -> Callable[..., WatchedTask]:
    """A task whose teacher must not be asked for."""
    return functools.partial(make_task, _teacher=lambda: pytest.fail("the protocol asked for a teacher"))


def dsa(**settings: Any) -> SiameseAugmentation:
    return SiameseAugmentation.model_validate({"epochs": 4, "batch_size": 8, **settings})


@pytest.mark.parametrize("strategy", ["color_crop_cutout_flip_scale_rotate", None])
def test_the_student_is_that_of_a_plain_loop(make_task: Callable[..., WatchedTask], strategy: str | None) -> None:
    """Momentum, weight decay on everything, a tenth of the rate in the second half, weighted cross-entropy."""
    task = make_task()
    metrics = dsa(strategy=strategy, epochs=5, momentum=0.8, weight_decay=0.1).evaluate(task)

    network = build_network("convnet-d2", 10, 8, "auto", seeds.derive("student", 0))
    start = {name: value.detach().clone() for name, value in network.named_parameters()}
    velocity = {name: torch.zeros_like(value) for name, value in network.named_parameters()}
    weights, seed = task.weights * 2, seeds.derive("student", 0)  # two a class: mean 1/2 in each
    pixels = task.dataset.normalise(task.images)
    for epoch, rate in enumerate([0.01, 0.01, 0.01, 0.001, 0.001]):
        order = torch.randperm(20, generator=seeds.generator("siamese", seed, epoch, "order"))
        draws = seeds.generator("siamese", seed, epoch, "augmentation")
        for rows in torch.split(order, 8):
            images = pixels[rows]
            if strategy is not None:
                images = augment(images, draw_augmentation(strategy, 8, draws, len(rows)))
            probabilities = network(images).log_softmax(1)
            losses = -torch.stack([probabilities[i, task.labels[row]] * weights[row] for i, row in enumerate(rows)])
            gradients = torch.autograd.grad(losses.sum() / len(rows), list(network.parameters()))
            with torch.no_grad():
                for (name, value), gradient in zip(network.named_parameters(), gradients, strict=True):
                    velocity[name] = 0.8 * velocity[name] + gradient + 0.1 * value
                    value.sub_(rate * velocity[name])
    (student,) = task.students
    for (name, actual), expected in zip(student.named_parameters(), network.parameters(), strict=True):
        moved = (expected.detach() - start[name]).norm()
        assert float((actual.detach() - expected.detach()).norm() / moved) < 0.01, name
    assert (metrics.student_steps, metrics.regime, metrics.label_bytes, metrics.top1_best) == (15, "hard", 160, None)


def test_a_batch_has_one_operation_and_parameters_for_each_image(make_task: Callable[..., WatchedTask]) -> None:
    task = make_task()
    dsa(strategy="crop", epochs=1, batch_size=32).evaluate(task)
    (shown,) = task.shown
    order = torch.randperm(20, generator=seeds.generator("siamese", seeds.derive("student", 0), 0, "order"))
    pixels = functional.pad(task.dataset.normalise(task.images[order]), (1, 1, 1, 1))
    moves = set()
    for view, image in zip(shown, pixels, strict=True):
        windows = {(r, c): image[:, r : r + 8, c : c + 8] for r in range(3) for c in range(3)}
        (move,) = [place for place, window in windows.items() if torch.equal(window, view)]
        moves.add(move)
    assert len(moves) > 4


def test_views_belong_to_the_students_seed_and_none_means_none(make_task: Callable[..., WatchedTask]) -> None:
    first, again, other, plain = make_task(), make_task(), make_task(1), make_task()
    for task, strategy in ((first, DSA_STRATEGY), (again, DSA_STRATEGY), (other, DSA_STRATEGY), (plain, None)):
        dsa(strategy=strategy).evaluate(task)
    assert len(first.shown) == 12
    assert all(torch.equal(a, b) for a, b in zip(first.shown, again.shown, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first.shown, other.shown, strict=True))
    pixels = plain.dataset.normalise(plain.images)
    shown = torch.cat(plain.shown[:3])
    assert torch.equal(shown.flatten(1).sort(0).values, pixels.flatten(1).sort(0).values)


def test_the_rate_falls_to_a_tenth_at_half(make_task: Callable[..., WatchedTask]) -> None:
    rates: list[float] = []
    dsa(epochs=4).evaluate(make_task(report=lambda step, total, **metrics: rates.append(metrics["learning_rate"])))
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001])
    assert [step_at_half(epoch, 1000) for epoch in (0, 499, 500, 999)] == [1, 1, 0.1, 0.1]
    assert [step_at_half(epoch, 3) for epoch in range(3)] == [1, 1, 0.1]
    assert step_at_half(0, 1) == 1


def test_weights_reach_the_loss(make_task: Callable[..., WatchedTask]) -> None:
    """An image of weight 0 has no say: its pixels may be anything."""
    actual = []
    for pixel in (0, 255):
        task = make_task()
        labels, images = task.labels, task.images.clone()
        images[1::2] = pixel
        weights = torch.tensor([1.0, 0.0]).repeat(10)
        object.__setattr__(task, "distilled", DistilledSet(task.dataset, labels, weights, ("unit",), images))
        dsa().evaluate(task)
        actual.append(task.students[0].state_dict())
    for name, value in actual[0].items():
        torch.testing.assert_close(value, actual[1][name])


def test_a_resumed_student_is_the_same(make_task: Callable[..., WatchedTask], monkeypatch: pytest.MonkeyPatch) -> None:
    uninterrupted = make_task()
    expected = dsa(epochs=6).evaluate(uninterrupted)
    monkeypatch.setattr("ddbench.training.loop.SAVE_SECONDS", 0.0)

    def stop(step: int, total: int, **metrics: float) -> None:
        if step == 4:  # in the second half: the rate must not start anew
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dsa(epochs=6).evaluate(make_task(report=stop))
    resumed = make_task()
    assert dsa(epochs=6).evaluate(resumed) == expected
    assert len(resumed.shown) == 6
    for name, value in uninterrupted.students[0].state_dict().items():
        assert torch.equal(value, resumed.students[0].state_dict()[name]), name


def test_a_loss_that_is_not_finite_is_named(make_task: Callable[..., WatchedTask]) -> None:
    with pytest.raises(DDBenchError, match="at step 1 of epoch 2"):
        dsa(learning_rate=1e30, batch_size=20, strategy=None).evaluate(make_task())


@pytest.mark.parametrize(("budget", "epochs"), [("paper", 1000), ("quick", 300), ("smoke", 3)])
def test_recipes_set_the_protocol(budget: str, epochs: int) -> None:
    request = Request(
        methods=("random",), datasets=("imagenette",), ipcs=(10,), recipes=(budget,), evaluators=("dsa",), seed=0
    )
    (cell,) = experiments(request, PluginRegistry())
    assert cell.evaluator == SiameseAugmentation(epochs=epochs)


def test_a_run_from_the_command_line(shell: Shell) -> None:
    run = ("--method", "random", "--dataset", "digits", "--ipc", "2", "--evaluator", "dsa", "--student", "convnet-d2")
    shell.run(*run)
    (path,) = (shell.results / "records").glob("*.json")
    record = json.loads(path.read_text())
    assert "teacher" not in {folder.name for folder in shell.cache.iterdir() if any(folder.iterdir())}
    text = json.dumps(record)
    assert '"dsa"' in text
    assert DSA_STRATEGY in text
