"""The conformance kit bites: a protocol that breaks one promise fails that promise's test, by its name."""

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
from ddbench.testing.promises import Conformance
from ddbench.testing.protocols import WatchedTask
from ddbench.training import teacher

if TYPE_CHECKING:
    from conftest import Checker


class FairProtocol(HardLabels, frozen=True, extra="forbid"):
    """Class labels, briefly: keeps every promise."""

    name = "fair-protocol"
    epochs: int = Field(default=20, ge=1, description="epochs")
    learning_rate: float = Field(default=5e-3, gt=0, description="of AdamW")


def student_of(task: EvaluateTask) -> torch.nn.Module:
    """The student that a watched task gave out."""
    assert isinstance(task, WatchedTask)
    return task.students[-1]


class Other(FairProtocol, frozen=True, extra="forbid"):
    """A test: reports something else than it measured."""

    changes: ClassVar[dict[str, Any]] = {}

    def evaluate(self, task: EvaluateTask) -> Metrics:
        return super().evaluate(task).model_copy(update=self.changes)


def reporting(**changes: Any) -> Evaluator:
    cls: type[Evaluator] = type("Reporting", (Other,), {"__doc__": "A test.", "changes": changes}, frozen=True)
    return cls()


class Lucky(FairProtocol, frozen=True, extra="forbid"):
    """A test: measures other weights than those after the last step."""

    def evaluate(self, task: EvaluateTask) -> Metrics:
        metrics = super().evaluate(task)
        with torch.no_grad():
            next(student_of(task).parameters()).mul_(1.01)
        top1, per_class = teacher.accuracy(student_of(task), task.dataset, "val", task.device, task.precision)
        return metrics.model_copy(update={"top1_last": top1, "per_class": per_class})


class Hasty(FairProtocol, frozen=True, extra="forbid"):
    """A test: measures on half of the validation images."""

    def evaluate(self, task: EvaluateTask) -> Metrics:
        metrics = super().evaluate(task)
        half = torch.arange(0, len(task.dataset.val), 2)
        with torch.no_grad():
            guesses = student_of(task)(task.dataset.evaluation_view("val", half).to(task.device)).argmax(1)
        right = (guesses.cpu() == task.dataset.val.labels[half]).double().mean()
        return metrics.model_copy(update={"top1_last": 100 * float(right)})


class Stubborn(FairProtocol, frozen=True, extra="forbid"):
    """A test: the same student for every seed."""

    def evaluate(self, task: EvaluateTask) -> Metrics:
        return super().evaluate(dataclasses.replace(task, seed=3))


class Own(FairProtocol, frozen=True, extra="forbid"):
    """A test: trains a student that is not the task's."""

    def evaluate(self, task: EvaluateTask) -> Metrics:
        bare = {part.name: getattr(task, part.name) for part in dataclasses.fields(EvaluateContext)}
        return super().evaluate(EvaluateContext(**bare))


class Cheating(FairProtocol, frozen=True, extra="forbid"):
    def evaluate(self, task: EvaluateTask) -> Metrics:
        _ = task.teacher
        return super().evaluate(task)


class Drifting(FairProtocol, frozen=True, extra="forbid"):
    """A test: a resumed student sees other views."""

    def evaluate(self, task: EvaluateTask) -> Metrics:
        resumed = task.checkpoint.path.exists()
        return super().evaluate(dataclasses.replace(task, seed=seeds.derive("drift", task.seed + resumed) % 1000))


PROTOCOLS: list[tuple[str, Evaluator, str]] = [
    ("metrics_are_complete_and_consistent", reporting(per_class=[50.0]), "top-1 of 1 classes, not 10"),
    ("metrics_are_complete_and_consistent", reporting(top1_last=101.0), "top1_last: Input should be less"),
    ("metrics_are_complete_and_consistent", reporting(per_class=[3.0] * 10), "comes to 3.000 %"),
    ("metrics_are_complete_and_consistent", reporting(top1_best=0.0), "below top1_last"),
    ("metrics_are_complete_and_consistent", reporting(label_bytes=0), "label_bytes = 0"),
    ("optimiser_steps_are_counted", reporting(student_steps=19), "student_steps = 19; torch.optim took 20"),
    ("optimiser_steps_are_counted", Own(), r"one student, the task's .* called task.student\(\) 0 times"),
    ("the_last_epoch_is_the_result", Lucky(), "after its last step: nothing is selected"),
    ("the_whole_validation_set_is_used", Hasty(), "every image of task.dataset.val"),
    ("another_seed_gives_another_student", Stubborn(), "seeds 0 and 1 end with the same weights"),
    ("a_student_learns", FairProtocol(epochs=1), "better than chance"),
    ("a_teacher_is_used_only_where_one_is_declared", Cheating(), "never touches a teacher"),
    ("an_interrupted_run_ends_with_the_same_result", Drifting(), "ends with the same bytes .* the metrics differ"),
]


@pytest.mark.parametrize(
    ("test", "protocol", "says"), PROTOCOLS, ids=[f"{test}-{number}" for number, (test, _, _) in enumerate(PROTOCOLS)]
)
def test_a_broken_promise_of_a_protocol_is_told_by_name(
    test: str, protocol: Evaluator, says: str, checker: Checker
) -> None:
    assert re.search(says, checker.complaint(checker.kit(protocol), test))


def test_every_promise_of_a_protocol_alone_is_seen_broken(checker: Checker) -> None:
    alone = checker.tests(EvaluatorConformance) - checker.tests(Conformance)
    assert {test for test, _, _ in PROTOCOLS} >= alone


def test_a_protocol_that_keeps_its_promises_is_left_in_peace(checker: Checker) -> None:
    kit = checker.kit(FairProtocol(), ipc=3)
    for test in checker.tests(kit) - {"its_modules_import_no_torch", "another_process_gives_the_same_result"}:
        checker.check(kit, test)


def test_a_claim_that_the_seed_does_not_matter_is_checked(checker: Checker) -> None:
    test = "another_seed_gives_another_student"
    checker.check(checker.kit(Stubborn(), draws=False), test)
    said = checker.complaint(checker.kit(FairProtocol(), draws=False), test)
    assert "with draws = False, the seed changes nothing" in said
