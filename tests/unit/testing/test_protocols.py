"""A protocol that breaks one requirement fails the test of that requirement."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from pydantic import Field

from ddbench.api.context import EvaluateTask
from ddbench.api.evaluator import Evaluator, Metrics
from ddbench.core import seeds
from ddbench.distillation.context import EvaluateContext
from ddbench.evaluators.protocols import HardLabels
from ddbench.testing import EvaluatorConformance
from ddbench.testing.conformance import Conformance
from ddbench.training import teacher

if TYPE_CHECKING:
    from conftest import Checker


class FairProtocol(HardLabels, frozen=True, extra="forbid"):
    """Class labels and few epochs. It meets every requirement."""

    name = "fair-protocol"
    epochs: int = Field(default=20, ge=1, description="epochs")
    learning_rate: float = Field(default=5e-3, gt=0, description="of AdamW")


def student_of(task: EvaluateTask) -> torch.nn.Module:
    """The student that a task created."""
    assert isinstance(task, EvaluateContext)
    return task.students[-1]


class Other(FairProtocol, frozen=True, extra="forbid"):
    """Reports other values than it measured."""

    changes: ClassVar[dict[str, Any]] = {}

    def evaluate(self, task: EvaluateTask) -> Metrics:
        return super().evaluate(task).model_copy(update=self.changes)


def reporting(**changes: Any) -> Evaluator:
    cls: type[Evaluator] = type("Reporting", (Other,), {"__doc__": "A test.", "changes": changes}, frozen=True)
    return cls()


class Lucky(FairProtocol, frozen=True, extra="forbid"):
    """Evaluates other weights than those after the last step."""

    def evaluate(self, task: EvaluateTask) -> Metrics:
        metrics = super().evaluate(task)
        with torch.no_grad():
            next(student_of(task).parameters()).mul_(1.01)
        top1, per_class = teacher.accuracy(student_of(task), task.dataset, "val", task.device, task.precision)
        return metrics.model_copy(update={"top1_last": top1, "per_class": per_class})


class Hasty(FairProtocol, frozen=True, extra="forbid"):
    """Evaluates on half of the validation images."""

    def evaluate(self, task: EvaluateTask) -> Metrics:
        metrics = super().evaluate(task)
        half = torch.arange(0, len(task.dataset.val), 2)
        with torch.no_grad():
            predictions = student_of(task)(task.dataset.evaluation_view("val", half).to(task.device)).argmax(1)
        right = (predictions.cpu() == task.dataset.val.labels[half]).double().mean()
        return metrics.model_copy(update={"top1_last": 100 * float(right)})


class Stubborn(FairProtocol, frozen=True, extra="forbid"):
    """Trains the same student for every seed."""

    def evaluate(self, task: EvaluateTask) -> Metrics:
        return super().evaluate(dataclasses.replace(task, seed=3))


class Own(FairProtocol, frozen=True, extra="forbid"):
    """Trains a student that is not the task's."""

    def evaluate(self, task: EvaluateTask) -> Metrics:
        bare = {part.name: getattr(task, part.name) for part in dataclasses.fields(EvaluateContext)}
        return super().evaluate(EvaluateContext(**{**bare, "students": []}))


class Cheating(FairProtocol, frozen=True, extra="forbid"):
    def evaluate(self, task: EvaluateTask) -> Metrics:
        _ = task.teacher
        return super().evaluate(task)


class Drifting(FairProtocol, frozen=True, extra="forbid"):
    """Uses other views after a resume."""

    def evaluate(self, task: EvaluateTask) -> Metrics:
        resumed = task.checkpoint.path.exists()
        return super().evaluate(dataclasses.replace(task, seed=seeds.derive("drift", task.seed + resumed) % 1000))


PROTOCOLS: list[tuple[str, Evaluator, str]] = [
    ("metrics_are_complete_and_consistent", reporting(per_class=[50.0]), "top-1 of 1 classes, not 10"),
    ("metrics_are_complete_and_consistent", reporting(top1_last=101.0), "top1_last: Input should be less"),
    ("metrics_are_complete_and_consistent", reporting(per_class=[3.0] * 10), "is 3.000 %"),
    ("metrics_are_complete_and_consistent", reporting(top1_best=0.0), "below top1_last"),
    ("metrics_are_complete_and_consistent", reporting(label_bytes=0), "label_bytes = 0"),
    ("optimiser_steps_are_counted", reporting(student_steps=19), "student_steps = 19; torch.optim took 20"),
    (
        "optimiser_steps_are_counted",
        Own(),
        r"trains one student.* called task.student\(\) 0 times",
    ),
    ("last_epoch_is_the_result", Lucky(), "after its last step; nothing is selected"),
    ("whole_validation_set_is_used", Hasty(), "every image of task.dataset.val"),
    ("another_seed_gives_another_student", Stubborn(), "seeds 0 and 1 give the same weights"),
    ("student_is_better_than_chance", FairProtocol(epochs=1), "better than chance"),
    ("undeclared_teacher_is_not_used", Cheating(), "does not use the teacher"),
    ("interrupted_run_gives_same_result", Drifting(), "gives the same bytes .* the metrics differ"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("test", "protocol", "pattern"),
    PROTOCOLS,
    ids=[f"{test}-{number}" for number, (test, _, _) in enumerate(PROTOCOLS)],
)
def test_broken_requirement_of_a_protocol_fails_its_test(
    test: str, protocol: Evaluator, pattern: str, checker: Checker
) -> None:
    assert re.search(pattern, checker.failure(checker.kit(protocol), test))


def test_every_conformance_test_of_protocols_can_fail(checker: Checker) -> None:
    alone = checker.tests(EvaluatorConformance) - checker.tests(Conformance)
    assert {test for test, _, _ in PROTOCOLS} >= alone


@pytest.mark.slow
def test_conforming_protocol_passes(checker: Checker) -> None:
    kit = checker.kit(FairProtocol(), ipc=3)
    for test in checker.tests(kit) - {"entry_modules_import_no_torch", "another_process_gives_same_result"}:
        checker.check(kit, test)


@pytest.mark.slow
def test_depends_on_seed_is_verified(checker: Checker) -> None:
    test = "another_seed_gives_another_student"
    checker.check(checker.kit(Stubborn(), depends_on_seed=False), test)
    message = checker.failure(checker.kit(FairProtocol(), depends_on_seed=False), test)
    assert "with depends_on_seed = False, every seed gives the same student" in message
