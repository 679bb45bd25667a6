"""Stage `measures`: the numbers of `--measure`, of a student or of a distilled set. Imports no torch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ddbench.api.cost import Cost, Passes
from ddbench.api.measure import Refusal, check_values
from ddbench.api.stage import Stage
from ddbench.core.errors import DDBenchError

if TYPE_CHECKING:
    from torch import nn

    from ddbench.api.context import CheckpointIO
    from ddbench.api.stage import Built
    from ddbench.pipeline.pipeline import Pipeline


class Measures(Stage["Pipeline"]):
    """Computes the measures of a run. Each part is one measure, in the order of their names."""

    name = "measures"
    version = "1"
    inputs = ("data", "teacher", "statistics", "distill", "evaluate")
    outputs = ()

    def parts(self, run: Pipeline) -> Sequence[int]:
        """Returns one part per measure."""
        return range(len(run.measures))

    def needs(self, run: Pipeline, part: int) -> Iterable[tuple[str, int]]:
        """Returns the data, and the student, the set or the teacher with the statistics."""
        needs = run.measures[part].needs
        stages = [*(["evaluate"] * ("student" in needs)), *(["distill"] * ("set" in needs))]
        stages += ["teacher"] * ("teacher" in needs)
        needed = [("data", 0), *((stage, number) for stage in stages for number in run.parts_of(stage))]
        if "teacher" in needs:
            needed += [("statistics", label) for label in range(run.info.num_classes)]
        return needed

    def key(self, run: Pipeline, part: int) -> Mapping[str, Any]:
        """Returns the measure with its settings and code, and what it needs."""
        measure = run.measures[part]
        source = run.workspace.registry.source_of("measure", measure.name)
        student = run.key("evaluate") if "student" in measure.needs else None
        units = run.unit_keys if "set" in measure.needs else None
        return run.keys.measurement(measure, source.digest, student, units)

    def cost(self, run: Pipeline, part: int) -> Cost:
        """Counts the measure's image passes."""
        return Cost((Passes(run.measures[part].image_passes(run.info), networks=(run.experiment.student,)),))

    def label(self, run: Pipeline, part: int) -> str:
        """Returns the names of the measure and of the student or the set."""
        measure = run.measures[part]
        return f"{measure.name} of {run.student_label if 'student' in measure.needs else run.set_label}"

    def build(self, run: Pipeline, part: int, checkpoint: CheckpointIO) -> Built:
        """Returns no tensors. The metadata hold the values, or the reason why there are none."""
        measure = run.measures[part]
        uses_teacher, uses_set = "teacher" in measure.needs, "set" in measure.needs
        distilled = run.distilled.decoded if uses_set else None
        shared = run.shared_state("measure", measure.name, (0,) if uses_teacher else (), distilled)
        with run.builder.plugin("measure", measure.name, self.name, shared) as owner:
            try:
                return {}, {"values": check_values(measure.compute(_task(run, part, owner)), owner)}
            except Refusal as refusal:
                run.note(f"{measure.name}: no value: {refusal}")
                return {}, {"values": {}, "refused": str(refusal)}


def _task(run: Pipeline, part: int, owner: str) -> Any:
    """Returns the task of a measure. What the measure does not declare raises an error, because no key covers it."""
    from ddbench.distillation.context import MeasureContext

    measure = run.measures[part]

    def declared(need: str, get: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(*_: object) -> Any:
            raise DDBenchError(f'{owner} uses what its attribute `needs` lacks: add "{need}"')

        return get if need in measure.needs else refuse

    return MeasureContext(
        name=measure.name,
        dataset=run.dataset,
        device=run.device,
        precision=run.precision,
        report=run.report,
        statistics=declared("teacher", run.statistics),
        _student=declared("student", functools.cache(functools.partial(_load_student, run))),
        _distilled=declared("set", lambda: run.distilled.decoded),
        _teacher=declared("teacher", lambda: run.teacher),
    )


def _load_student(run: Pipeline) -> nn.Module:
    """Returns the trained student from the artifact of `evaluate`."""
    import torch

    from ddbench.nn.build import build_network

    experiment = run.experiment
    sizes = (run.info.num_classes, run.info.image_size)
    student = build_network(experiment.student, *sizes, experiment.student_stem)
    student.load_state_dict(run.artifact("evaluate").tensors)
    placed: nn.Module = student.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed.eval().requires_grad_(False)
