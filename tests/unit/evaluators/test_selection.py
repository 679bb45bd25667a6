"""The epoch chosen on held-out distilled images: which are held out, that none is trained on, the choice, resume."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ddbench.core.errors import DDBenchError
from ddbench.distillation.context import EvaluateContext
from ddbench.evaluators.fkd_labels import OnlineLabels
from ddbench.evaluators.labels import ClassLabels
from ddbench.evaluators.protocols import DistilledSetProtocol, HardLabels, KnowledgeDistillation, SoftLabels
from ddbench.evaluators.selection import held_out, split
from ddbench.results import records
from ddbench.training import loop
from ddbench.training.teacher import accuracy

if TYPE_CHECKING:
    from conftest import Shell
    from tests.unit.evaluators.conftest import WatchedTask

    MakeTask = Callable[..., WatchedTask]

CPU = torch.device("cpu")
CHAOTIC = {"epochs": 8, "learning_rate": 0.1}
"""Training that is best, for seed 1, in one of its first epochs: the last is far from it."""
PLAIN = {"epochs": 5, "batch_size": 8, "min_crop": 1.0, "cutmix_alpha": None, "select_share": 0.4}
"""Views that are whole images, flipped or not: each shows which image it is of."""


# -- which images -------------------------------------------------------------------------------------------


@given(counts=st.lists(st.integers(2, 30), min_size=1, max_size=5), share=st.floats(0.01, 0.99), seed=st.integers(0, 3))
def test_a_share_of_every_class_is_held_out_and_something_left(counts: list[int], share: float, seed: int) -> None:
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    held = held_out(labels, share, seed)
    for label, count in enumerate(counts):
        number = int(held[labels == label].sum())
        assert 1 <= number <= count - 1
        assert number in (1, count - 1) or abs(number - share * count) <= 0.5
    assert torch.equal(held, held_out(labels, share, seed))


def test_another_seed_holds_other_images_out_and_a_class_of_one_is_refused() -> None:
    labels = torch.arange(10).repeat_interleave(10)
    assert int(held_out(labels, 0.2, 0).sum()) == 20
    assert not torch.equal(held_out(labels, 0.2, 0), held_out(labels, 0.2, 1))
    with pytest.raises(DDBenchError, match="select_share: class 2 has one distilled image"):
        held_out(torch.tensor([0, 0, 2, 1, 1]), 0.2, 0)


# -- one student --------------------------------------------------------------------------------------------


@pytest.fixture
def make_task(make_task: MakeTask) -> MakeTask:
    """A task on five images a class."""
    return functools.partial(make_task, ipc=5, arch="convnet-d1", teacher="convnet-d1")


def which(task: EvaluateContext, views: Tensor) -> list[int]:
    """The images of the set that whole views show, flipped or not."""
    images = task.dataset.normalise(task.images)
    both = [(views[:, None] - x).flatten(2).abs().amax(2) for x in (images, images.flip(-1))]
    nearest = torch.minimum(*both).min(1)
    assert float(nearest.values.max()) < 1e-4
    return nearest.indices.tolist()


@pytest.mark.parametrize("labels", ["online", "stored", "soft", "hard"])
def test_held_out_images_are_never_trained_on_and_all_others_are(make_task: MakeTask, labels: str) -> None:
    protocols: dict[str, DistilledSetProtocol] = {
        "online": KnowledgeDistillation.model_validate(PLAIN),
        "stored": KnowledgeDistillation.model_validate({**PLAIN, "labels": "stored"}),
        "soft": SoftLabels.model_validate(PLAIN),
        "hard": HardLabels.model_validate(PLAIN),
    }
    task = make_task()
    metrics = protocols[labels].evaluate(task)
    held = held_out(task.labels, 0.4, task.seed).nonzero().squeeze(1).tolist()
    rest = sorted(set(range(50)) - set(held))
    assert len(held) == 20
    # Thirty images in batches of eight, the same in every regime; each once an epoch.
    assert metrics.student_steps == len(task.shown) == 5 * 4
    seen = [which(task, torch.cat(task.shown[start : start + 4])) for start in range(0, 20, 4)]
    assert [sorted(epoch) for epoch in seen] == 5 * [rest]
    assert metrics.image_bytes == 50 * 3 * 8 * 8
    if labels == "hard":
        assert metrics.label_bytes == 30 * 8


def test_weights_and_labels_are_those_of_the_images_that_are_left(make_task: MakeTask) -> None:
    task = make_task()
    part, held = split(task, 0.4)
    rest = (~held).nonzero().squeeze(1)
    assert torch.equal(part.labels, task.labels[rest])
    assert torch.equal(part.images, task.images[rest])
    for label in range(10):
        weights = task.weights.double()[rest][part.labels == label]
        torch.testing.assert_close(
            part.weights[part.labels == label].double(), weights / weights.sum(), rtol=1e-6, atol=0
        )
    source = ClassLabels(task, HardLabels.model_validate(PLAIN))
    assert source.targets.argmax(1).tolist() == task.labels[rest].tolist()
    same, none = split(task, None)
    assert same is task
    assert not none.any()
    online = OnlineLabels(task, KnowledgeDistillation.model_validate({**PLAIN, "select_share": None}), 20)
    assert (online.count, int(online.held_out.sum())) == (50, 0)


def test_the_best_epoch_on_held_out_images_is_measured_and_the_last_stays_the_result(make_task: MakeTask) -> None:
    """Every epoch is scored here too, from the student as it is then, in float64."""
    settings = HardLabels.model_validate({**PLAIN, **CHAOTIC})
    scores: list[tuple[float, float]] = []
    reached: list[float] = []

    def report(step: int, total: int, **metrics: float) -> None:
        held = held_out(task.labels, 0.4, 1)
        student = task.students[0].eval()
        with torch.no_grad():
            logits = student(task.dataset.normalise(task.images[held])).double()
            reached.append(accuracy(student, task.dataset, "val", CPU, "fp32")[0])
        right = (logits.argmax(1) == task.labels[held]).double().mean()
        chance = logits.log_softmax(1)[torch.arange(20), task.labels[held]]
        scores.append((round(100 * float(right), 6), round(float(chance.mean()), 6)))

    task = make_task(report=report, seed=1)
    metrics = settings.evaluate(task)
    best = scores.index(max(scores))
    assert len(scores) == 8
    assert metrics.selected_epoch == best + 1 < 8  # or this run could not tell it from the last
    assert metrics.top1_selected == reached[best] != metrics.top1_last
    assert metrics.top1_last == reached[-1]
    after = accuracy(task.students[0], task.dataset, "val", CPU, "fp32")
    assert after == (metrics.top1_last, metrics.per_class)
    assert len(task.students) == 1


def test_without_a_share_there_is_no_choice(make_task: MakeTask) -> None:
    metrics = HardLabels.model_validate({**PLAIN, "select_share": None}).evaluate(make_task())
    assert metrics.top1_selected is metrics.selected_epoch is None
    assert metrics.student_steps == 5 * 7


@pytest.mark.parametrize("stop", [1, 6])
def test_a_student_that_was_stopped_ends_with_the_same_numbers(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    settings = HardLabels.model_validate({**PLAIN, **CHAOTIC})
    uninterrupted = make_task(seed=1)
    expected = settings.evaluate(uninterrupted)
    uninterrupted.checkpoint.clear()
    assert expected.selected_epoch is not None
    # One stop is before the best epoch and one after it: it is found, or remembered.
    assert 1 < expected.selected_epoch <= 6

    def report(step: int, total: int, **metrics: float) -> None:
        if step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        settings.evaluate(make_task(report=report, seed=1))
    resumed = make_task(seed=1)
    assert settings.evaluate(resumed) == expected
    assert len(resumed.shown) == (8 - stop) * 4
    for name, tensor in uninterrupted.students[0].state_dict().items():
        assert torch.equal(tensor, resumed.students[0].state_dict()[name]), name


# -- from the command line ----------------------------------------------------------------------------------


def test_a_record_and_what_is_shown_of_it_name_the_selected_epoch(shell: Shell) -> None:
    where = ("--method", "random", "--dataset", "digits", "--ipc", "5", "--evaluator", "hard")
    shell.run(*where, "--set", "evaluator.select_share=0.2", "--set", "evaluator.epochs=3")
    (path,) = (shell.results / "records").glob("*.json")
    tree = json.loads(path.read_text())
    assert tree["configuration"]["evaluator_settings"]["select_share"] == 0.2
    metrics = tree["metrics"]
    assert 1 <= metrics["selected_epoch"] <= 3
    message = shell("show").out
    assert f"{metrics['top1_last']:.2f} % on validation images" in message
    chosen = f"after epoch {metrics['selected_epoch']}, chosen on held-out distilled images"
    assert f"{metrics['top1_selected']:.2f} % on validation images ({chosen})" in message

    # A record from before there was a choice is read as one without.
    old = {**tree, "metrics": {name: value for name, value in metrics.items() if "selected" not in name}}
    path.write_text(json.dumps({name: value for name, value in old.items() if name != "digest"}))
    read = records.read(path)
    assert read.metrics.top1_selected is read.metrics.selected_epoch is None
    assert "chosen on held-out" not in shell("show").out


def test_one_image_a_class_is_refused_before_anything_is_trained(shell: Shell) -> None:
    where = ("--method", "wmdd", "--dataset", "digits", "--ipc", "1", "--recipe", "smoke", "--device", "cpu")
    refused = shell("run", *where, "--set", "evaluator.select_share=0.2")
    assert refused.code != 0
    assert "--ipc 1: evaluator.select_share holds out at least one image of each class" in refused.err
    assert not any("/teacher/" in name for name in shell.files("cache"))
