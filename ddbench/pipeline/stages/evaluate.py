"""Stages `evaluate`, a student on the distilled set, and `labels`, stored soft labels. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ddbench.api.cost import Cost, Passes
from ddbench.api.stage import Stage
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.stages.on_demand import OnDemand

if TYPE_CHECKING:
    from ddbench.api.context import CheckpointIO
    from ddbench.api.stage import Built
    from ddbench.pipeline.pipeline import Pipeline


class Labels(OnDemand):
    """Keeps the soft labels that a protocol requests by `task.cached`."""

    name = "labels"
    inputs = ("teacher", "distill")
    outputs = ("evaluate",)

    def key_for(self, run: Pipeline, name: str, depends_on: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the dependencies of stored labels."""
        return run.keys.labels(run.distilled.keys, name, dict(depends_on))


UNUSED = {
    "pixels": "the float pixels (it rounds and clamps them to bytes)",
    "soft_labels": "the soft labels",
    "learning_rate": "the learning rate",
}
RATE = "evaluator.learning_rate"


def unused_parts(form: Mapping[str, Any], uses: Iterable[str]) -> list[str]:
    """Returns what a protocol does not use of a set.

    Args:
        form: `DistilledSet.form`.
        uses: `Evaluator.uses`.

    Example:
        >>> unused_parts({"soft_labels": "logits", "learning_rate": 0.1}, ("learning_rate",))
        ['the soft labels']
    """
    return [text for name, text in UNUSED.items() if name in form and name not in uses]


class Evaluate(Stage["Pipeline"]):
    """Trains one student with one seed under the protocol and measures it."""

    name = "evaluate"
    version = "1"
    inputs = ("data", "teacher", "distill")
    outputs = ()
    distributed = True
    progress_unit = "epoch"

    def parts(self, run: Pipeline) -> Sequence[int]:
        """Returns one part: the student."""
        return (0,)

    def needs(self, run: Pipeline, part: int) -> Iterable[tuple[str, int]]:
        """Returns the data, the distilled set, and the teachers that the protocol uses."""
        teachers = [("teacher", number) for number in run.pool.parts(run.protocol)]
        return [("data", 0), *teachers, *(("distill", number) for number in run.parts_of("distill"))]

    def key(self, run: Pipeline, part: int) -> Mapping[str, Any]:
        """Returns the units, the protocol with all its settings, the teacher, the student and its seed."""
        return run.keys.evaluate(run.unit_keys)

    def cost(self, run: Pipeline, part: int) -> Cost:
        """Counts the passes of student and teachers, and every validation image once.

        Without an IPC, every real image passes once per epoch.
        """
        experiment, protocol, student = run.experiment, run.protocol, (run.experiment.student,)
        images, teacher = run.student_images, experiment.teacher
        real = teacher.full_size_epochs(run.info.image_size) * sum(run.info.train_counts)
        trained = protocol.image_passes(images) if experiment.ipc else real
        batch_size = getattr(protocol, "batch_size", teacher.batch_size)
        batch_size = min(batch_size, images) if images else batch_size
        passes = [Passes(trained, "training", student, batch_size)]
        passes += [Passes(sum(run.info.val_counts), "forward", student)]
        if protocol.needs_teacher:
            labels = protocol.label_passes(images)
            networks = protocol.teacher_pool() or (teacher.arch,)
            passes += [Passes(labels, "forward", (network,), batch_size) for network in networks]
        return Cost(
            tuple(passes),
            stored_bytes=protocol.stored_label_bytes(images, run.info.num_classes),
            stored_networks=student if experiment.keeps_student else (),
        )

    def label(self, run: Pipeline, part: int) -> str:
        """Returns the name of the student and its seed."""
        return run.student_label

    def build(self, run: Pipeline, part: int, checkpoint: CheckpointIO) -> Built:
        """Returns the weights of the student if a measure needs them. The metadata hold the metrics.

        Raises:
            DDBenchError: The protocol trained not exactly one student, which a measure needs.
        """
        from functools import partial

        from ddbench.api.evaluator import check_metrics
        from ddbench.distillation.context import EvaluateContext
        from ddbench.pipeline.build import refuse_teacher

        experiment, needs_teacher = run.experiment, run.protocol.needs_teacher
        if unused := unused_parts(run.distilled.form, run.protocol.uses):
            note = f"{experiment.evaluator_name} does not use {', '.join(unused)} of {run.set_label}"
            run.workspace.note_once(note, "evaluate")
        rate = run.distilled.form.get("learning_rate")
        if rate is not None and "learning_rate" in run.protocol.uses and RATE in experiment.changed:
            note = f"{experiment.evaluator_name} does not use {RATE} for {run.set_label}, which has its own: {rate:g}"
            run.workspace.note_once(note, "evaluate")
        refused = refuse_teacher("evaluator", experiment.evaluator_name)
        distilled = run.distilled.decoded
        shared = run.shared_state("evaluator", experiment.evaluator_name, run.pool.parts(run.protocol), distilled)
        task = EvaluateContext(
            dataset=run.dataset,
            distilled=distilled,
            teacher_training=experiment.teacher,
            student_arch=experiment.student,
            student_stem=experiment.student_stem,
            seed=experiment.seed + experiment.student_seed,
            ipc=experiment.ipc,
            device=run.device,
            precision=run.precision,
            checkpoint=checkpoint,
            report=run.builder.report("evaluate", run.student_label),
            cached=partial(Labels().cached, run, shared.verify),
            _teacher=(lambda: run.teacher) if needs_teacher else refused,
            teachers=(lambda *names: run.pool.teachers(run.protocol, names)) if needs_teacher else refused,
        )
        with run.builder.plugin("evaluator", experiment.evaluator_name, "evaluate", shared) as owner:
            metrics = check_metrics(run.protocol.evaluate(task), run.info.num_classes, owner)
            if experiment.keeps_student and len(task.students) != 1:
                problem = f"called task.student() {len(task.students)} times"
                raise DDBenchError(f"{owner} {problem}: its students cannot be measured further (--measure)")
        weights = task.students[0].state_dict() if experiment.keeps_student else {}
        tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        return tensors, {"metrics": metrics.model_dump(mode="json"), "top1": metrics.top1_last}
