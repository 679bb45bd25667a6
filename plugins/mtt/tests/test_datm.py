"""DATM: the images and labels that it starts from, the window of the starts, its loop, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch
from ddbench_mtt.datm import DATM
from ddbench_mtt.experts import snapshot
from ddbench_mtt.labels import SoftMatching
from ddbench_mtt.matching import distill
from ddbench_mtt.training import as_vector
from pydantic import ValidationError
from torch import Tensor, nn

from ddbench.api import UnitResult
from ddbench.distillation.context import DistillContext
from ddbench.nn import build_network

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset

METHOD = DATM(
    network="convnet-d1", experts=3, expert_epochs=4, min_start_epoch=1, initial_max_start_epoch=2, max_start_epoch=3,
    widening_iterations=4, target_epochs=1, student_steps=2, iterations=5, learning_rate=50, label_learning_rate=1,
    rate_learning_rate=1e-3, max_loss=100,
)  # fmt: skip
(UNIT,) = METHOD.units(10, 2)


@dataclass(frozen=True)
class Watched(DistillContext):
    """The task of a run with given experts; what is read, reported and noted is kept."""

    read: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
@torch.no_grad()
def experts(digits_at: Callable[..., Dataset]) -> list[tuple[nn.Module, Tensor]]:
    """Three networks that take the class with the nearest mean feature, and random parameters that they start from.

    Expert i never takes the classes i and 9.
    """
    dataset, made = digits_at(8), []
    rows = torch.arange(0, len(dataset.train), 7)
    images, labels = dataset.evaluation_view("train", rows), dataset.train.labels[rows]
    for seed in range(3):
        network = build_network("convnet-d1", 10, 8, seed=seed)
        first = as_vector(network)
        *_, (_, classifier) = network.named_children()
        features: list[Tensor] = []
        hook = classifier.register_forward_pre_hook(lambda module, inputs, kept=features: kept.append(inputs[0]))
        network(images)
        hook.remove()
        assert isinstance(classifier, nn.Linear)
        means = torch.stack([features[0][labels == label].mean(0) for label in range(10)])
        classifier.weight.copy_(means / 20)
        classifier.bias.copy_(-means.square().sum(1) / 40)
        classifier.bias[[seed, 9]] = -1000
        made.append((network, first))
    return made


@pytest.fixture
def make_task(
    digits_at: Callable[..., Dataset], bare_task: Callable[..., Any], experts: list[tuple[nn.Module, Tensor]]
) -> Callable[..., Watched]:
    def make(stop_at: int = 0, **more: Any) -> Watched:
        read: list[tuple[int, tuple[str, ...]]] = []
        losses: list[float] = []
        notes: list[str] = []

        def tensors(stage: str, part: int, names: Iterable[str]) -> dict[str, Tensor]:
            assert stage == "experts"
            read.append((part, tuple(names)))
            network, first = experts[part]
            share = {name: int(name.partition("-")[2]) / METHOD.expert_epochs for name in read[-1][1]}
            return {name: torch.lerp(first, as_vector(network), value) for name, value in share.items()}

        def report(step: int, total: int, **metrics: float) -> None:
            losses.append(metrics["loss"])
            if step == stop_at:
                raise KeyboardInterrupt

        own = {"read": read, "losses": losses, "notes": notes, "note": notes.append}
        own |= {"tensors": tensors, "report": report, "ipc": 2}
        return bare_task(digits_at(8), None, kind=Watched, **{**own, **more})

    return make


MakeTask = Callable[..., Watched]


def logits_of(experts: list[tuple[nn.Module, Tensor]], images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.stack([network(images) for network, _ in experts])


def test_initial_images_are_those_that_an_expert_classifies_correctly_in_random_order(
    make_task: MakeTask, experts: list[tuple[nn.Module, Tensor]]
) -> None:
    task = make_task(ipc=30)
    rows = SoftMatching(METHOD, task).initial_rows().view(10, 30)
    right = logits_of(experts, task.dataset.evaluation_view("train", torch.arange(len(task.dataset.train)))).argmax(2)
    kinds = set()
    for label in range(10):
        order = task.sample(label, len(task.dataset.train), "initial").tolist()
        first_right = {row: next((e for e in range(3) if right[e, row] == label), 3) for row in order}
        assert rows[label].tolist() == sorted(order, key=first_right.__getitem__)[:30]
        kinds |= {first_right[row] for row in rows[label].tolist()}
    assert kinds >= {0, 1, 3}
    (note,) = task.notes
    assert note.startswith("datm: no expert classifies ")
    other = SoftMatching(METHOD, make_task(ipc=30, seed=9)).initial_rows()
    assert not torch.equal(other, rows.flatten())


def test_labels_start_from_the_mean_logits_of_the_experts_that_are_right(
    make_task: MakeTask, experts: list[tuple[nn.Module, Tensor]]
) -> None:
    task = make_task(ipc=10)
    images = task.dataset.evaluation_view("train", torch.cat([task.sample(label, 10, "any") for label in range(10)]))
    every, classes = logits_of(experts, images), torch.arange(100) // 10
    counts = set()
    for limit in (1, 2, 100):
        labels = SoftMatching(METHOD.model_copy(update={"label_experts": limit}), task).initial_labels(images)
        for image, label in enumerate(classes.tolist()):
            right = [logits[image] for logits in every if int(logits[image].argmax()) == label][:limit]
            expected = torch.stack(right).mean(0) if right else every[0, image]
            torch.testing.assert_close(labels[image], expected, rtol=1e-4, atol=1e-5)
            counts.add(len(right))
    assert counts == {0, 1, 2, 3}
    plain = SoftMatching(METHOD.model_copy(update={"initial": "real"}), task)
    torch.testing.assert_close(plain.initial_labels(images), every[0], rtol=1e-4, atol=1e-5)


def test_starts_are_drawn_from_the_window_of_the_iteration(make_task: MakeTask) -> None:
    method = METHOD.model_copy(update={"expert_epochs": 30, "initial_max_start_epoch": 3, "max_start_epoch": 20,
                                       "widening_iterations": 300})  # fmt: skip
    task = make_task()
    for iteration in range(600):
        upper = min(3 + int((20 - 3) * iteration / 300), 20)  # distill/DATM.py
        assert method.start_epochs(iteration) == range(1, upper)
        SoftMatching(method, task).segment(iteration)
    starts = [int(names[0].partition("-")[2]) for _, names in task.read]
    assert all(start in method.start_epochs(iteration) for iteration, start in enumerate(starts))
    assert {*starts[300:]} == {*range(1, 20)}
    assert all(names[1] == snapshot(start + 1) for start, (_, names) in zip(starts, task.read, strict=True))


def test_an_iteration_is_sgd_on_pixels_labels_and_rate_unless_its_loss_is_too_high(make_task: MakeTask) -> None:
    start = SoftMatching(METHOD, make_task()).initial(UNIT)
    free = make_task()
    distill(SoftMatching(METHOD, free), UNIT)
    bound = sorted(free.losses)[2]
    method = METHOD.model_copy(update={"max_loss": bound})
    task, matching = make_task(), SoftMatching(method, make_task())
    result = distill(SoftMatching(method, task), UNIT)
    learned = {**start, "rate": torch.tensor(0.01)}
    sizes = {"images": (50, 0.5), "labels": (1, 0.9), "rate": (1e-3, 0.5)}
    optimizers = [
        torch.optim.SGD([learned[name].requires_grad_(True)], lr=size, momentum=momentum)
        for name, (size, momentum) in sizes.items()
    ]
    skipped = 0
    for iteration in range(5):
        data = {name: learned[name].detach() for name in ("images", "labels")}
        matched = matching.match(iteration, data, learned["rate"].detach())
        if float(matched.loss) > bound:
            skipped += 1
            continue
        for name, gradient in matched.gradients.items():
            learned[name].grad = gradient
        for optimizer in optimizers:
            optimizer.step()
    assert 0 < skipped < 5
    assert task.notes[-1] == f"datm: {skipped} of 5 iterations are skipped, because of their loss"
    assert result.images is not None
    assert result.logits is not None
    torch.testing.assert_close(result.images, learned["images"].detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.logits, learned["labels"].detach(), rtol=1e-5, atol=1e-6)
    assert result.learning_rate == pytest.approx(float(learned["rate"].detach()), rel=1e-6)
    assert result.learning_rate != pytest.approx(0.01, rel=1e-5)


def test_an_interrupted_run_ends_with_the_same_set_and_counts_the_skipped_iterations(make_task: MakeTask) -> None:
    method = METHOD.model_copy(update={"max_loss": 1e-9})

    def finished(task: Watched) -> UnitResult:
        return distill(SoftMatching(method, task), UNIT)

    whole = make_task()
    untouched = finished(whole)
    with pytest.raises(KeyboardInterrupt):
        finished(make_task(3, slot="stopped", checkpoint_every=2))
    task = make_task(slot="stopped", checkpoint_every=2)
    resumed = finished(task)
    assert len(task.losses) == 3
    assert task.notes == whole.notes
    assert task.notes[-1] == "datm: 5 of 5 iterations are skipped, because of their loss"
    start = SoftMatching(method, make_task()).initial(UNIT)
    for result in (untouched, resumed):
        assert result.images is not None
        assert result.logits is not None
        assert torch.equal(result.images, start["images"])
        assert torch.equal(result.logits, start["labels"])
        assert result.learning_rate == pytest.approx(0.01)


@pytest.mark.parametrize(
    "window", [{"min_start_epoch": 2, "initial_max_start_epoch": 2}, {"initial_max_start_epoch": 4}]
)
def test_a_window_that_cannot_widen_is_refused(window: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="are no window that widens"):
        DATM(max_start_epoch=3, **window)


def test_work_counts_the_images_of_the_students_steps() -> None:
    assert METHOD.image_passes(10, 2) == 4 * 5 * 2 * 20
