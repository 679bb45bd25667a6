"""The promises of a protocol."""

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
from ddbench.testing.bench import Bench
from ddbench.testing.promises import Conformance, demand, first
from ddbench.training import teacher

MARGIN = 15.0


@dataclass(frozen=True)
class WatchedTask(EvaluateContext):
    """A task that remembers the students that it gave out."""

    students: list[nn.Module] = field(default_factory=list)

    def student(self) -> nn.Module:
        """As an EvaluateTask's."""
        self.students.append(super().student())
        return self.students[-1]


@dataclass
class Witness:
    """Stands in for a protocol in a pipeline, and sees what it does: its student, the student's steps, its metrics."""

    protocol: Evaluator
    students: list[nn.Module] = field(default_factory=list)
    steps: int = 0
    last_step: list[Tensor] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.protocol, name)

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """As the protocol's."""
        assert isinstance(task, EvaluateContext)
        given = {part.name: getattr(task, part.name) for part in fields(task)}
        with self._counting():
            return self.protocol.evaluate(WatchedTask(**given, students=self.students))

    @property
    def student(self) -> nn.Module:
        """The network that was trained. Fails the test where there is not exactly one."""
        demand(
            len(self.students) == 1,
            "a protocol trains one student, the task's",
            f"{self.protocol.name} called task.student() {len(self.students)} times",
            "train the network that task.student() returns; what else it trains it builds by ddbench.nn.build",
        )
        return self.students[0]

    @contextmanager
    def _counting(self) -> Iterator[None]:
        def stepped(optimizer: torch.optim.Optimizer, *_: object) -> None:
            moved = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            mine = [parameter for student in self.students for parameter in student.parameters()]
            if any(id(parameter) in moved for parameter in mine):
                self.steps += 1
                self.last_step = [parameter.detach().clone() for parameter in mine]

        handle = register_optimizer_step_post_hook(stepped)
        try:
            yield
        finally:
            handle.remove()


class EvaluatorConformance(Conformance):
    """What a protocol promises, as tests. Inherit, and set `evaluator`, with epochs for a run of a second or two.

    It must suffice to learn something from `ipc` random real images a class. Also `dataset`, `budget`, and
    `draws = False` for a protocol whose student does not depend on the seed.
    """

    evaluator: ClassVar[Evaluator]
    ipc: ClassVar[int] = 5

    @classmethod
    def subject(cls) -> Evaluator:
        """The protocol."""
        return cls.evaluator

    def test_metrics_are_complete_and_consistent(self, bench: Bench) -> None:
        pipeline = bench.pipeline(first(bench).root)
        metrics = Metrics(**pipeline.artifact("evaluate").meta["metrics"])
        counts = pipeline.dataset.info.val_counts
        promise = "metrics are complete, in range, and agree with each other"
        mean = sum(part * count for part, count in zip(metrics.per_class, counts, strict=True)) / sum(counts)
        demand(
            abs(mean - metrics.top1_last) < 1e-6,
            promise,
            f"per_class, weighted by the classes' sizes, comes to {mean:.3f} %, top1_last is {metrics.top1_last:.3f} %",
            "measure both on the same images, all of task.dataset.val",
        )
        demand(
            metrics.top1_best is None or metrics.top1_best >= metrics.top1_last,
            promise,
            f"top1_best = {metrics.top1_best} is below top1_last = {metrics.top1_last}",
            "the last epoch counts among those that top1_best is the best of; None where it is not tracked",
        )
        demand(
            metrics.label_bytes > 0 and metrics.image_bytes > 0 and bool(metrics.regime.strip()),
            promise,
            f"label_bytes = {metrics.label_bytes}, image_bytes = {metrics.image_bytes}, regime = {metrics.regime!r}",
            "count the labels that the student consumed, take task.distilled.image_bytes, name the kind of labels",
        )

    def test_optimiser_steps_are_counted(self, bench: Bench) -> None:
        witness, metrics = _witnessed(bench)
        _ = witness.student
        demand(
            metrics.student_steps == witness.steps > 0,
            "student_steps is the number of the student's optimiser steps",
            f"student_steps = {metrics.student_steps}; torch.optim took {witness.steps} steps on its parameters",
            "count epochs x batches, the last partial batch too",
        )

    def test_the_last_epoch_is_the_result(self, bench: Bench) -> None:
        witness, _ = _witnessed(bench)
        kept = zip(witness.student.parameters(), witness.last_step, strict=True)
        demand(
            all(torch.equal(now, then) for now, then in kept),
            "the result is the student after its last step: nothing is selected on the images that it is measured on",
            "the student that was measured is not the one after the last optimiser step",
            "measure the student once, when training ends; top1_best has a field of its own",
        )

    def test_the_whole_validation_set_is_used(self, bench: Bench) -> None:
        witness, metrics = _witnessed(bench)
        pipeline = bench.pipeline(bench.folder / "shared")
        top1, per_class = teacher.accuracy(witness.student, pipeline.dataset, "val", pipeline.device, "fp32")
        demand(
            abs(top1 - metrics.top1_last) < 1e-6 and per_class == metrics.per_class,
            "the result is the student's accuracy on every image of task.dataset.val, in its evaluation view",
            f"top1_last = {metrics.top1_last:.3f} %; on all {len(pipeline.dataset.val)} images it is {top1:.3f} %",
            "use ddbench.training.teacher.accuracy(student, task.dataset, 'val', task.device, task.precision)",
        )

    def test_another_seed_gives_another_student(self, bench: Bench) -> None:
        witness, _ = _witnessed(bench)
        other, _ = _witnessed(bench, student_seed=1)
        pairs = zip(witness.student.parameters(), other.student.parameters(), strict=True)
        same = all(torch.equal(one, two) for one, two in pairs)
        demand(
            same != self.draws,
            "another seed gives another student" if self.draws else "with draws = False, the seed changes nothing",
            f"seeds 0 and 1 end with {'the same' if same else 'different'} weights",
            "task.student() begins with the task's seed; derive what else is drawn from task.seed, by ddbench.core.seeds",
        )

    def test_a_student_learns(self, bench: Bench) -> None:
        pipeline = bench.pipeline(first(bench).root)
        top1, chance = pipeline.artifact("evaluate").meta["top1"], 100 / pipeline.dataset.info.num_classes
        demand(
            top1 >= chance + MARGIN,
            f"on random real images a student is better than chance, by {MARGIN:g} points of top-1",
            f"{top1:.1f} % against {chance:.1f} %",
            "give the test's evaluator more epochs; are images normalised, and labels those of their images?",
        )


@functools.lru_cache(maxsize=4)
def _witnessed(bench: Bench, student_seed: int = 0) -> tuple[Witness, Metrics]:
    experiment = bench.experiment.model_copy(update={"student_seed": student_seed})
    pipeline = bench.pipeline(bench.empty(), experiment)
    witness = Witness(pipeline.protocol)
    pipeline.protocol = witness  # type: ignore[assignment]
    return witness, Metrics(**pipeline.artifact("evaluate").meta["metrics"])
