"""Labels of the very view; stored and online labels agree; several teachers; bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from ddbench.evaluators.fkd_labels import OnlineLabels
from ddbench.evaluators.protocols import KnowledgeDistillation
from ddbench.nn.build import build_network
from ddbench.nn.taps import TappedNetwork

if TYPE_CHECKING:
    from tests.unit.evaluators.conftest import WatchedTask

SMALL = {"epochs": 4, "batch_size": 8}


def fkd(**settings: Any) -> KnowledgeDistillation:
    return KnowledgeDistillation.model_validate({**SMALL, **settings})


@pytest.mark.parametrize("alpha", [1.0, None])
def test_stored_labels_give_the_numbers_of_online_labels(
    make_task: Callable[..., WatchedTask], alpha: float | None
) -> None:
    online, stored, again = make_task(), make_task(), make_task()
    first = fkd(cutmix_alpha=alpha).evaluate(online)
    second = fkd(cutmix_alpha=alpha, labels="stored").evaluate(stored)
    assert first == second
    assert len(online.shown) == len(stored.shown) == 12
    for left, right in zip(online.shown, stored.shown, strict=True):
        assert torch.equal(left, right)
    assert fkd(cutmix_alpha=alpha, labels="stored").evaluate(again) == first
    assert stored.labelled
    assert not again.labelled  # replayed from the file


def test_stored_and_online_students_have_the_same_weights(make_task: Callable[..., WatchedTask]) -> None:
    """Accuracies of few images could agree by chance; the logits of a trained student cannot."""
    weights = []
    for labels in ("online", "stored"):
        task = make_task()
        trained: list[nn.Module] = []
        object.__setattr__(task, "student", lambda build=task.student, kept=trained: kept.append(build()) or kept[0])
        fkd(labels=labels).evaluate(task)
        weights.append(trained[0].state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_the_teacher_labels_exactly_what_the_student_sees(make_task: Callable[..., WatchedTask]) -> None:
    task = make_task()
    fkd().evaluate(task)
    assert len(task.labelled) == len(task.shown) == 12
    for labelled, seen in zip(task.labelled, task.shown, strict=True):
        assert torch.equal(labelled, seen)


def test_teacher_logits_are_rounded_to_half_precision(make_task: Callable[..., WatchedTask]) -> None:
    task = make_task()
    source = OnlineLabels(task, fkd(), temperature=20)
    batch = next(iter(source.batches(source.views(0))))
    with torch.no_grad():
        exact = task.teacher(batch.images).logits
    assert torch.equal(source.logits(0, batch), exact.half())
    assert not torch.equal(exact.half().float(), exact)


def test_the_labels_of_several_teachers_are_the_mean_of_their_logits(make_task: Callable[..., WatchedTask]) -> None:
    networks = {f"convnet-bn-d{depth}": TappedNetwork(build_network(f"convnet-bn-d{depth}", 10, 8)) for depth in (1, 2)}
    task = make_task(teachers=lambda *names: [networks[name] for name in names])
    source = OnlineLabels(task, fkd(teachers=tuple(networks)), temperature=20)
    batch = next(iter(source.batches(source.views(0))))
    with torch.no_grad():
        first, second = (network(batch.images).logits for network in networks.values())
    mean = ((first + second) / 2).half()
    torch.testing.assert_close(source.logits(0, batch), mean)
    assert not torch.allclose(first, second, atol=0.1)


def test_sizes_are_recorded(make_task: Callable[..., WatchedTask]) -> None:
    """A view: ten fp16 logits, order and partner int32, four int16, a flip; a mixed batch: four int16."""
    assert fkd().evaluate(make_task()).label_bytes == 4 * (20 * (20 + 4 + 8 + 1 + 4) + 3 * 8)
    assert fkd(cutmix_alpha=None).evaluate(make_task()).label_bytes == 4 * 20 * (20 + 4 + 8 + 1)
