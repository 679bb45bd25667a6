"""How a student is trained under any label source, and measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from ddbench import seeds
from ddbench.config import TrainingSettings
from ddbench.evaluator import Metrics
from ddbench.evaluators.labels import LabelSource, SampleLosses, view_batches
from ddbench.training import Batch, accuracy, fit, train_on_real_images
from ddbench.views import batch_slices

if TYPE_CHECKING:
    from ddbench.evaluators.protocols import DistilledSetProtocol
    from ddbench.task import EvaluateTask


def weighted(losses: SampleLosses, weights: Tensor) -> SampleLosses:
    """The batch's loss: the mean of weight x loss over its samples. `weights` [B] have mean 1."""
    return lambda logits: (losses(logits) * weights).mean()


def evaluate_student(task: EvaluateTask, settings: DistilledSetProtocol, source: LabelSource) -> Metrics:
    """Trains the task's student on its distilled set with `source`'s labels, and measures the last epoch."""
    device = task.device
    weights = (task.weights * len(task.weights) / task.weights.sum()).to(device)
    training = TrainingSettings(
        optimizer="adamw",
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        decay_vectors=False,
        batch_size=source.batch_size,
        epochs=settings.epochs,
    )

    def epoch_batches(epoch: int) -> Iterator[Batch]:
        for batch in view_batches(task, source.views(epoch)):
            yield Batch(batch.images, weighted(source.losses(epoch, batch), weights[batch.rows]))

    def validate(epoch: int) -> float | None:
        done = epoch + 1
        if settings.validate_every == 0 or done % settings.validate_every or done == settings.epochs:
            return None
        return accuracy(student, task.dataset, "val", device, task.precision)[0]

    student = task.student()
    seed = seeds.derive("student", task.seed)
    best = fit(student, epoch_batches, training, device, task.precision, task.checkpoint, task.report, validate, seed)
    top1, per_class = accuracy(student, task.dataset, "val", device, task.precision)
    return Metrics(
        top1_last=top1,
        top1_best=None if settings.validate_every == 0 else max(top1, best if best is not None else top1),
        per_class=per_class,
        student_steps=settings.epochs * len(batch_slices(source.count, source.batch_size)),
        label_bytes=source.label_bytes,
        image_bytes=task.distilled.image_bytes,
        regime=source.regime,
    )


def evaluate_on_real_images(task: EvaluateTask) -> Metrics:
    """Trains the task's student on the whole real training set by the teacher's recipe, and measures it."""
    student = task.student()
    steps = train_on_real_images(
        student,
        task.dataset,
        task.teacher_config,
        seeds.derive("student", task.seed),
        task.device,
        task.precision,
        task.checkpoint,
        task.report,
    )
    top1, per_class = accuracy(student, task.dataset, "val", task.device, task.precision)
    labels = task.dataset.train.labels
    return Metrics(
        top1_last=top1,
        per_class=per_class,
        student_steps=steps,
        label_bytes=labels.nbytes,
        image_bytes=len(labels) * 3 * task.dataset.info.image_size**2,
        regime="hard",
    )
