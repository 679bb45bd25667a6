"""The protocol of EDC: its loss, its settings, its recipes, and a student against a plain loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from ddbench.evaluators.edc import AveragedStudent
from ddbench.evaluators.mse_labels import LogitsAndClasses, mse_gt
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry

if TYPE_CHECKING:
    from tests.unit.evaluators.conftest import WatchedTask


@pytest.mark.parametrize("ce_weight", [0.0, 0.025, 0.15])
def test_the_loss_is_its_formula_in_float64(ce_weight: float) -> None:
    """Sample by sample: the mean over classes of (student - teacher)^2, and the weight times -log p of the class."""
    draws = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 4, generator=draws) * 3
    classes = torch.randint(0, 4, (6,), generator=draws)
    expected = []
    for own, other, label in zip(student.tolist(), teacher.tolist(), classes.tolist(), strict=True):
        squared = sum((a - b) ** 2 for a, b in zip(own, other, strict=True)) / 4
        expected.append(squared + ce_weight * (math.log(sum(math.exp(a) for a in own)) - own[label]))
    losses = mse_gt(student, teacher, classes, ce_weight)
    torch.testing.assert_close(losses.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6)


def test_defaults_are_the_released_settings_on_imagenet_10() -> None:
    """`shaoshitong/EDC:Branch_ImageNet_10/train/train.sh`, and the defaults of `direct_train.py`."""
    settings = AveragedStudent().model_dump()
    expected = {
        "epochs": 1000, "batch_size": 50, "learning_rate": 1e-3, "weight_decay": 0.01, "min_crop": 0.5,
        "cutmix_alpha": 1.0, "ce_weight": 0.025, "schedule": "smoothed", "ema_decay": 0.99, "factor": 1,
    }  # fmt: skip
    assert {name: settings[name] for name in expected} == expected
    training = AveragedStudent(optimizer="sgd").training(50)
    assert (training.momentum, training.decay_vectors) == (0.875, False)  # and `get_parameters` of utils.py


@pytest.mark.parametrize("wrong", [{"ema_decay": 1.0}, {"ce_weight": -1}, {"schedule": "step"}, {"temperature": 20}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AveragedStudent.model_validate(wrong)


def factor_of(schedule: str, epoch: int, epochs: int) -> float:
    """`cos2` and `cos` with `--st 2` of EDC, and G-VBSM's `--cos`."""
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    if schedule == "half-cosine" or epoch <= epochs * 5 / 6:
        return 0.5 * (1 + math.cos(math.pi * epoch / (2 * epochs)))
    return 0.5 * (1 + math.cos(math.pi * 5 / 12)) * (6 * epochs - 6 * epoch) / (6 * epochs)


@pytest.mark.parametrize(
    ("schedule", "factor", "decay"), [("smoothed", 1, 0.8), ("half-cosine", 2, 0.99), ("cosine", 1, 0.0)]
)
def test_a_student_is_that_of_a_plain_loop(
    make_task: Callable[..., WatchedTask], schedule: str, factor: int, decay: float
) -> None:
    """Seven epochs of SGD, with the loss, the learning rates, the weights of images and the average written out."""
    options = {"epochs": 7, "batch_size": 8, "optimizer": "sgd", "learning_rate": 0.05, "weight_decay": 0.1}
    settings = AveragedStudent.model_validate(
        {**options, "schedule": schedule, "factor": factor, "ema_decay": decay, "ce_weight": 0.5}
    )
    task = make_task()
    metrics = settings.evaluate(task)
    (student,) = task.students

    task = make_task()
    plain, teacher = task.student().train(), task.teacher
    decayed = [p for p in plain.parameters() if p.ndim > 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": 0.1}, {"params": [p for p in plain.parameters() if p.ndim == 1]}
    ]  # fmt: skip
    optimizer = torch.optim.SGD(groups, lr=1, momentum=0.875)
    average = [p.detach().clone() for p in plain.parameters()]
    source = LogitsAndClasses(task, settings, 0.5)
    for epoch in range(7):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * factor_of(schedule, epoch, 7)
        for batch in source.batches(source.views(epoch)):
            with torch.no_grad():
                target = teacher(batch.images).logits.half().float()
            logits = plain(batch.images)
            cross = functional.cross_entropy(logits, task.labels[batch.rows], reduction="none")
            losses = ((logits - target) ** 2).mean(1) + 0.5 * cross
            optimizer.zero_grad()
            (losses * task.weights[batch.rows] * 2).mean().backward()
            optimizer.step()
            for mean, parameter in zip(average, plain.parameters(), strict=True):
                mean.copy_(decay * mean + (1 - decay) * parameter.detach())
    for actual, expected in zip(student.parameters(), average, strict=True):
        torch.testing.assert_close(actual.detach(), expected, rtol=2e-3, atol=2e-4)
    # as under fkd or rded, and the classes
    assert metrics.label_bytes == 7 * (20 * (20 + 4 + 4 + 8 + 1 + (4 * factor if factor > 1 else 0)) + 3 * 8) + 20 * 8
    assert metrics.regime == "fkd"


SCRIPTS = {
    "imagenette": {"factor": 1, "epochs": 1000, "batch_size": 50, "learning_rate": 1e-3, "weight_decay": 0.01,
                   "optimizer": "adamw", "schedule": "smoothed"},
    "imagenet-1k": {"factor": 2, "epochs": 300, "batch_size": 100, "learning_rate": 1e-3, "weight_decay": 0.01,
                    "optimizer": "adamw", "schedule": "half-cosine"},
    "tiny-imagenet": {"factor": 1, "epochs": 300, "batch_size": 100, "learning_rate": 0.1, "weight_decay": 5e-4,
                      "optimizer": "sgd", "schedule": "half-cosine"},
}  # fmt: skip
"""The arguments of `train.sh` in EDC's branches ImageNet_10, full_ImageNet_1k and Tiny_ImageNet."""


@pytest.mark.parametrize("dataset", SCRIPTS)
def test_paper_has_the_arguments_of_the_scripts(dataset: str) -> None:
    request = Request(("random",), (dataset,), (10,), ("paper",), evaluators=("edc",))
    (cell,) = experiments(request, PluginRegistry())
    common = {"ce_weight": 0.025, "ema_decay": 0.99, "min_crop": 0.5, "cutmix_alpha": 1.0}
    expected = AveragedStudent.model_validate({**SCRIPTS[dataset], **common})
    assert cell.evaluator == expected


@pytest.mark.parametrize(("budget", "epochs"), [("quick", 300), ("smoke", 3)])
def test_smaller_budgets_have_fewer_epochs(budget: str, epochs: int) -> None:
    request = Request(("random",), ("imagenette",), (10,), (budget,), evaluators=("edc",))
    (cell,) = experiments(request, PluginRegistry())
    assert cell.evaluator == AveragedStudent(epochs=epochs)
