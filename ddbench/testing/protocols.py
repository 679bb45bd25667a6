"""The conformance tests of protocols."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ddbench.api.context import EvaluateTask
from ddbench.api.evaluator import Evaluator, Metrics
from ddbench.distillation.context import EvaluateContext
from ddbench.testing.conformance import Conformance, successful_run
from ddbench.testing.harness import Harness
from ddbench.testing.requirements import require
from ddbench.training import teacher
from ddbench.training.averaging import WeightAverage

MARGIN = 15.0


@dataclass
class ObservedEvaluator:
    """Replaces a protocol in a pipeline and records what it trains.

    Args:
        protocol: The protocol that is observed.
        students: The students that the protocol created.
        steps: Optimiser steps on their parameters.
        average: Average of their parameters over the steps.
    """

    protocol: Evaluator
    average: WeightAverage
    students: list[nn.Module] = field(default_factory=list)
    steps: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.protocol, name)

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Runs the protocol on an observed copy of the task. See Evaluator.evaluate."""
        assert isinstance(task, EvaluateContext)
        with self._count_steps():
            return self.protocol.evaluate(replace(task, students=self.students))

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
        def updated(optimizer: torch.optim.Optimizer) -> list[nn.Module]:
            optimised = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            return [network for network in self.students if any(id(p) in optimised for p in network.parameters())]

        def before_step(optimizer: torch.optim.Optimizer, *_: object) -> None:
            if self.steps == 0:
                for network in updated(optimizer):
                    self.average.update(network)

        def after_step(optimizer: torch.optim.Optimizer, *_: object) -> None:
            for network in (networks := updated(optimizer)):
                self.average.update(network)
            self.steps += bool(networks)

        handles = register_optimizer_step_pre_hook(before_step), register_optimizer_step_post_hook(after_step)
        try:
            yield
        finally:
            for handle in handles:
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
        average_decay: Decay of the average of the student's weights (`ddbench.training.WeightAverage`), if the protocol
            measures that average; 0: it measures the weights after the last step.
    """

    evaluator: ClassVar[Evaluator]
    ipc: ClassVar[int] = 5
    average_decay: ClassVar[float] = 0.0

    @classmethod
    def subject(cls) -> Evaluator:
        """Returns the protocol."""
        return cls.evaluator

    @classmethod
    def harness_in(cls, folder: Path) -> Harness:
        """Creates a harness of the protocol that observes the first run. See Conformance.harness_in."""
        harness = super().harness_in(folder)
        harness.observer = cls._new_observer()
        return harness

    @classmethod
    def _new_observer(cls) -> ObservedEvaluator:
        return ObservedEvaluator(cls.evaluator, WeightAverage(cls.average_decay))

    def test_metrics_are_complete_and_consistent(self, harness: Harness) -> None:
        metrics = _metrics(harness)
        counts = harness.pipeline(harness.shared).dataset.info.val_counts
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
        metrics, observed = _metrics(harness), harness.observer
        _ = observed.student
        require(
            metrics.student_steps == observed.steps > 0,
            "student_steps is the number of the student's optimiser steps",
            f"student_steps = {metrics.student_steps}; torch.optim took {observed.steps} steps on its parameters",
            "count epochs x batches, including the last partial batch",
        )

    def test_last_epoch_is_the_result(self, harness: Harness) -> None:
        successful_run(harness)
        observed = harness.observer
        expected = observed.average.parameters
        require(
            all(torch.equal(current, expected[name]) for name, current in observed.student.named_parameters()),
            "the result is the student after its last step; nothing is selected on the validation set",
            "the measured student differs from the student after the last optimiser step",
            "measure the student once, after training; report the best epoch in top1_best; state average_decay if the "
            "average of the weights is measured",
        )

    def test_whole_validation_set_is_used(self, harness: Harness) -> None:
        metrics = _metrics(harness)
        pipeline = harness.pipeline(harness.shared)
        top1, per_class = teacher.accuracy(harness.observer.student, pipeline.dataset, "val", pipeline.device, "fp32")
        require(
            abs(top1 - metrics.top1_last) < 1e-6 and per_class == metrics.per_class,
            "the result is the student's accuracy on every image of task.dataset.val, in its evaluation view",
            f"top1_last = {metrics.top1_last:.3f} %; on all {len(pipeline.dataset.val)} images it is {top1:.3f} %",
            "use ddbench.training.accuracy(student, task.dataset, 'val', task.device, task.precision)",
        )

    def test_another_seed_gives_another_student(self, harness: Harness) -> None:
        successful_run(harness)
        other = self._new_observer()
        harness.run(harness.experiment.model_copy(update={"student_seed": 1}), other)
        pairs = zip(harness.observer.student.parameters(), other.student.parameters(), strict=True)
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


def _metrics(harness: Harness) -> Metrics:
    """The metrics of the first run."""
    return Metrics(**harness.pipeline(successful_run(harness).root).artifact("evaluate").meta["metrics"])
