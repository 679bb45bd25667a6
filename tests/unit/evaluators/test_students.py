"""The training of a student: weights that reach the loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional

from ddbench.evaluators.labels import ClassLabels, FixedSoftLabels, LabelSource, OnlineLabels, divergences
from ddbench.evaluators.protocols import DistilledSetProtocol, HardLabels, KnowledgeDistillation, SoftLabels
from ddbench.evaluators.students import weighted
from ddbench.evaluators.view_batches import view_batches

if TYPE_CHECKING:
    from tests.unit.evaluators.conftest import WatchedTask

CPU = torch.device("cpu")


def test_unequal_weights_reach_the_loss() -> None:
    """Three samples, two classes, by hand in float64."""
    student = torch.tensor([[1.0, -2.0], [0.5, 0.0], [3.0, 1.0]])
    teacher = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [0.0, 0.0]])
    weights, temperature = torch.tensor([0.3, 2.2, 0.5]), 20.0
    expected = 0.0
    for s, t, w in zip(student.double(), teacher.double(), weights.double(), strict=True):
        q, p = (s / temperature).exp(), (t / temperature).exp()
        q, p = q / q.sum(), p / p.sum()
        expected += float(w * (p * (p / q).log()).sum()) / 3
    targets = torch.softmax(teacher / temperature, 1)
    loss = weighted(lambda logits: divergences(logits, targets, temperature), weights)(student)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    even = weighted(lambda logits: divergences(logits, targets, temperature), torch.ones(3))(student)
    released = functional.kl_div(functional.log_softmax(student / temperature, 1), targets, reduction="batchmean")
    torch.testing.assert_close(even, released)


@pytest.mark.parametrize("labels", [OnlineLabels, FixedSoftLabels, ClassLabels])
def test_the_weights_of_the_set_reach_the_training_loss(
    make_task: Callable[..., WatchedTask], labels: type[LabelSource]
) -> None:
    """One epoch of one step: the loss that is reported, against sample by sample in float64."""
    protocols: dict[type[LabelSource], type[DistilledSetProtocol]]
    protocols = {OnlineLabels: KnowledgeDistillation, FixedSoftLabels: SoftLabels, ClassLabels: HardLabels}
    settings = protocols[labels].model_validate({"epochs": 1})
    reported: list[float] = []
    task = dataclasses.replace(make_task(), report=lambda step, total, **metrics: reported.append(metrics["loss"]))
    settings.evaluate(task)

    temperature = () if labels is ClassLabels else (20.0,)
    source = labels(task, settings, *temperature)
    (batch,) = view_batches(task, source.views(0))
    with torch.no_grad():
        samples = source.losses(0, batch)(task.student()(batch.images)).tolist()
    weights = task.weights.double()[batch.rows].tolist()
    total = sum(task.weights.double().tolist())
    by_hand = sum(w * loss for w, loss in zip(weights, samples, strict=True)) / total
    unweighted = sum(samples) / 20
    assert reported == pytest.approx([by_hand], rel=1e-4)
    assert abs(by_hand / unweighted - 1) > 1e-3
