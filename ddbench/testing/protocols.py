"""The conformance tests of protocols."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ddbench.api.context import EvaluateTask
from ddbench.api.evaluator import Evaluator, Metrics
from ddbench.distillation.context import EvaluateContext
from ddbench.testing.conformance import Conformance, successful_run
from ddbench.testing.harness import Harness
from ddbench.testing.requirements import require
from ddbench.training import teacher

MARGIN = 15.0


@dataclass(frozen=True)
class ObservedTask(EvaluateContext):
    """An evaluation task that records the students that it creates.

    Args:
        students: Receives every student.
    """

    students: list[nn.Module] = field(default_factory=list)

    def student(self) -> nn.Module:
        """Creates a student. See EvaluateTask.student."""
        self.students.append(super().student())
        return self.students[-1]


@dataclass
class ObservedEvaluator:
    """Replaces a protocol in a pipeline and records what it trains.

    Args:
        protocol: The protocol that is observed.
        students: The students that the protocol created.
        steps: Optimiser steps on their parameters.
        last_parameters: Copies of their parameters after the last step.
    """

    protocol: Evaluator
    students: list[nn.Module] = field(default_factory=list)
    steps: int = 0
    last_parameters: list[Tensor] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.protocol, name)

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Runs the protocol on an observed copy of the task. See Evaluator.evaluate."""
        assert isinstance(task, EvaluateContext)
        values = {part.name: getattr(task, part.name) for part in fields(task)}
        with self._count_steps():
            return self.protocol.evaluate(ObservedTask(**values, students=self.students))

    @property
    def student(self) -> nn.Module:
        """The trained student. The current test fails unless there is exactly one."""
        require(
            len(self.students) == 1,
            "a protocol trains one student, which task.student() returns",
            f"{self.protocol.name} called task.student() {len(self.students)} times",
            "train the network that task.student() returns; create other networks with ddbench.nn.build_network",
        )
        return self.students[0]

    @contextmanager
    def _count_steps(self) -> Iterator[None]:
        def after_step(optimizer: torch.optim.Optimizer, *_: object) -> None:
            optimised = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            parameters = [parameter for student in self.students for parameter in student.parameters()]
            if any(id(parameter) in optimised for parameter in parameters):
                self.steps += 1
                self.last_parameters = [parameter.detach().clone() for parameter in parameters]

        handle = register_optimizer_step_post_hook(after_step)
        try:
            yield
        finally:
            handle.remove()


class EvaluatorConformance(Conformance):
    """The tests that every protocol must pass. Inherit from this class and set `evaluator`.

    Args:
        evaluator: The protocol, with as many epochs as a run of a second or two allows. A student must learn from
            `ipc` random real images per class.
        ipc: Images per class.
        dataset: Name of the dataset.
        budget: Name of the recipe.
        depends_on_seed: False for a protocol whose student does not depend on the seed.
    """

    evaluator: ClassVar[Evaluator]
    ipc: ClassVar[int] = 5

    @classmethod
    def subject(cls) -> Evaluator:
        """Returns the protocol."""
        return cls.evaluator

    def test_metrics_are_complete_and_consistent(self, harness: Harness) -> None:
        pipeline = harness.pipeline(successful_run(harness).root)
        metrics = Metrics(**pipeline.artifact("evaluate").meta["metrics"])
        counts = pipeline.dataset.info.val_counts
        requirement = "metrics are complete and consistent"
        mean = sum(top1 * count for top1, count in zip(metrics.per_class, counts, strict=True)) / sum(counts)
        require(
            abs(mean - metrics.top1_last) < 1e-6,
            requirement,
            f"the mean of per_class, weighted by class size, is {mean:.3f} %; top1_last is {metrics.top1_last:.3f} %",
            "measure both on all images of task.dataset.val",
        )
        require(
            metrics.top1_best is None or metrics.top1_best >= metrics.top1_last,
            requirement,
            f"top1_best = {metrics.top1_best} is below top1_last = {metrics.top1_last}",
            "include the last epoch in top1_best, or set it to None",
        )
        require(
            metrics.label_bytes > 0 and metrics.image_bytes > 0 and bool(metrics.regime.strip()),
            requirement,
            f"label_bytes = {metrics.label_bytes}, image_bytes = {metrics.image_bytes}, regime = {metrics.regime!r}",
            "count the bytes of all labels used, copy task.distilled.image_bytes, and name the label regime",
        )

    def test_optimiser_steps_are_counted(self, harness: Harness) -> None:
        observed, metrics = _observed_evaluation(harness)
        _ = observed.student
        require(
            metrics.student_steps == observed.steps > 0,
            "student_steps is the number of the student's optimiser steps",
            f"student_steps = {metrics.student_steps}; torch.optim took {observed.steps} steps on its parameters",
            "count epochs x batches, including the last partial batch",
        )

    def test_last_epoch_is_the_result(self, harness: Harness) -> None:
        observed, _ = _observed_evaluation(harness)
        pairs = zip(observed.student.parameters(), observed.last_parameters, strict=True)
        require(
            all(torch.equal(current, last) for current, last in pairs),
            "the result is the student after its last step; nothing is selected on the validation set",
            "the measured student differs from the student after the last optimiser step",
            "measure the student once, after training; report the best epoch in top1_best",
        )

    def test_whole_validation_set_is_used(self, harness: Harness) -> None:
        observed, metrics = _observed_evaluation(harness)
        pipeline = harness.pipeline(harness.shared)
        top1, per_class = teacher.accuracy(observed.student, pipeline.dataset, "val", pipeline.device, "fp32")
        require(
            abs(top1 - metrics.top1_last) < 1e-6 and per_class == metrics.per_class,
            "the result is the student's accuracy on every image of task.dataset.val, in its evaluation view",
            f"top1_last = {metrics.top1_last:.3f} %; on all {len(pipeline.dataset.val)} images it is {top1:.3f} %",
            "use ddbench.training.accuracy(student, task.dataset, 'val', task.device, task.precision)",
        )

    def test_another_seed_gives_another_student(self, harness: Harness) -> None:
        first, _ = _observed_evaluation(harness)
        second, _ = _observed_evaluation(harness, student_seed=1)
        pairs = zip(first.student.parameters(), second.student.parameters(), strict=True)
        is_equal = all(torch.equal(one, two) for one, two in pairs)
        require(
            is_equal != self.depends_on_seed,
            "another seed gives another student"
            if self.depends_on_seed
            else "with depends_on_seed = False, every seed gives the same student",
            f"seeds 0 and 1 give {'the same' if is_equal else 'different'} weights",
            "task.student() uses the task's seed; derive other seeds from task.seed with ddbench.api.seeds",
        )

    def test_student_is_better_than_chance(self, harness: Harness) -> None:
        pipeline = harness.pipeline(successful_run(harness).root)
        top1, chance = pipeline.artifact("evaluate").meta["top1"], 100 / pipeline.dataset.info.num_classes
        require(
            top1 >= chance + MARGIN,
            f"a student that is trained on random real images is better than chance, by {MARGIN:g} points of top-1",
            f"{top1:.1f} % against {chance:.1f} %",
            "give the test's evaluator more epochs; check that images are normalised and labels belong to them",
        )


@functools.lru_cache(maxsize=4)
def _observed_evaluation(harness: Harness, student_seed: int = 0) -> tuple[ObservedEvaluator, Metrics]:
    experiment = harness.experiment.model_copy(update={"student_seed": student_seed})
    pipeline = harness.pipeline(harness.new_cache(), experiment)
    observed = ObservedEvaluator(pipeline.protocol)
    pipeline.protocol = observed  # type: ignore[assignment]
    return observed, Metrics(**pipeline.artifact("evaluate").meta["metrics"])
