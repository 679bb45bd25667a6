"""The training of a student: weights that reach the loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn import functional

from ddbench.evaluators.fkd_labels import OnlineLabels
from ddbench.evaluators.labels import ClassLabels, FixedSoftLabels, LabelSource, divergences
from ddbench.evaluators.protocols import DistilledSetProtocol, HardLabels, KnowledgeDistillation, SoftLabels
from ddbench.evaluators.students import weighted

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


@pytest.mark.parametrize("protocol", [KnowledgeDistillation, SoftLabels, HardLabels])
def test_sgd_after_a_warmup_is_sre2ls_recipe_on_tiny_imagenet(
    make_task: Callable[..., WatchedTask], protocol: type[DistilledSetProtocol]
) -> None:
    """The weights of a student after two epochs, against a plain loop of PyTorch's SGD."""
    options = {"epochs": 2, "optimizer": "sgd", "learning_rate": 0.05, "warmup_epochs": 1, "weight_decay": 0.1}
    soft = protocol is not HardLabels
    settings = protocol.model_validate({**options, "batch_size": 8, **({"squared_temperature": True} if soft else {})})
    task = make_task()
    students: list[nn.Module] = []
    object.__setattr__(task, "student", lambda build=task.student: students.append(build()) or students[0])
    settings.evaluate(task)

    task = make_task()
    sources = {KnowledgeDistillation: OnlineLabels, SoftLabels: FixedSoftLabels, HardLabels: ClassLabels}
    source = sources[protocol](task, settings, *((20.0,) if soft else ()))
    plain = task.student().train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=1, momentum=0.9, weight_decay=0.1)
    weights = task.weights * 20 / task.weights.sum()
    for epoch, rate in enumerate((0.05 * 0.01, 0.05)):
        optimizer.param_groups[0]["lr"] = rate
        for batch in source.batches(source.views(epoch)):
            losses = source.losses(epoch, batch)(plain(batch.images))
            optimizer.zero_grad()
            ((400 if soft else 1) * losses * weights[batch.rows]).mean().backward()
            optimizer.step()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(students[0].state_dict()[name], tensor, rtol=2e-3, atol=2e-4)


def test_defaults_that_were_added_later_are_in_no_key() -> None:
    for protocol in (KnowledgeDistillation, SoftLabels, HardLabels):
        stored = protocol.model_validate({}).model_dump(mode="json")
        assert not {"optimizer", "warmup_epochs", "squared_temperature", "select_share"} & set(stored)


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
    (batch,) = source.batches(source.views(0))
    with torch.no_grad():
        samples = source.losses(0, batch)(task.student()(batch.images)).tolist()
    weights = task.weights.double()[batch.rows].tolist()
    total = sum(task.weights.double().tolist())
    by_hand = sum(w * loss for w, loss in zip(weights, samples, strict=True)) / total
    unweighted = sum(samples) / 20
    assert reported == pytest.approx([by_hand], rel=1e-4)
    assert abs(by_hand / unweighted - 1) > 1e-3
