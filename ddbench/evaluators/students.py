"""Trains a student with any label source and measures it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from ddbench.api.evaluator import Metrics
from ddbench.api.settings import TrainingSettings
from ddbench.augment.crops import normalise
from ddbench.augment.siamese import augment, draw_augmentation
from ddbench.augment.views import batch_slices
from ddbench.core import seeds
from ddbench.evaluators.labels import LabelSource, SampleLosses
from ddbench.evaluators.selection import score_on
from ddbench.training import strategy
from ddbench.training.averaging import WeightAverage
from ddbench.training.batches import Batch, to_device
from ddbench.training.best_epoch import BestEpoch
from ddbench.training.curve import Curve
from ddbench.training.loop import fit
from ddbench.training.schedules import Schedule, cosine, step_at_half, with_warmup
from ddbench.training.teacher import accuracy, train_on_real_images

if TYPE_CHECKING:
    from ddbench.api.context import EvaluateTask
    from ddbench.evaluators.base import DistilledSetProtocol
    from ddbench.evaluators.length import EpochsOrSteps, Length


def weighted(losses: SampleLosses, weights: Tensor) -> SampleLosses:
    """Returns the loss of a batch: the mean of weight times loss over its samples.

    Args:
        losses: The loss of each sample.
        weights: The weight of each sample [B]. Weights have mean 1 over the distilled set.

    Example:
        >>> loss = weighted(lambda logits: logits.square().sum(1), torch.tensor([0.5, 1.5]))
        >>> loss(torch.tensor([[1.0, 1.0], [2.0, 0.0]]))
        tensor(3.5000)
    """
    return lambda logits: (losses(logits) * weights).mean()


def sample_weights(task: EvaluateTask) -> Tensor:
    """Returns the weights of the distilled images [m] on the device, scaled to mean 1 over the set."""
    return (task.weights * len(task.weights) / task.weights.sum()).to(task.device)


def train_and_measure(
    task: EvaluateTask,
    settings: EpochsOrSteps,
    epoch_batches: Callable[[int], Iterable[Batch]],
    training: TrainingSettings,
    length: Length,
    label_bytes: int,
    regime: str,
    validate_every: int = 0,
    schedule: Schedule = cosine,
    best_epoch: BestEpoch | None = None,
    average: WeightAverage | None = None,
) -> Metrics:
    """Trains the task's student from scratch and measures it on the validation images.

    Args:
        task: The task.
        settings: The protocol.
        epoch_batches: Returns the batches of a whole epoch.
        training: The hyper-parameters of the training run.
        length: The length of the training run.
        label_bytes: The bytes of the labels, for the metrics.
        regime: The label regime, for the metrics.
        validate_every: The number of epochs between two validations during training; 0 for none.
        schedule: The schedule of the learning rate.
        best_epoch: Selects a further epoch to measure; None: only the last epoch is measured.
        average: Averages the weights of the student, and the average is measured; None: the weights are.

    Returns:
        The metrics of the student after the last epoch.
    """
    device = task.device

    def top1_of(network: nn.Module) -> float:
        return accuracy(network, task.dataset, "val", device, task.precision)[0]

    interval = validate_every * length.steps_per_epoch
    validated = set(range(interval, length.steps, interval)) if interval else set()
    # The last step is measured below, with its classes.
    curve = Curve(top1_of, (validated | {*settings.measure_at}) - {length.steps})
    student = task.student()
    fit(
        student,
        lambda epoch: length.batches(epoch, epoch_batches(epoch)),
        training.model_copy(update={"epochs": length.epochs}),
        device,
        task.precision,
        task.checkpoint,
        task.report,
        curve if validated or settings.measure_at else None,
        seeds.derive("student", task.seed),
        length.schedule(schedule),
        best_epoch,
        average,
    )
    top1, per_class = accuracy(student, task.dataset, "val", device, task.precision)
    selected = None
    if best_epoch is not None:
        selected_student = copy.deepcopy(student)
        selected_student.load_state_dict(best_epoch.weights)
        selected = top1_of(selected_student)
    points = [(step, value) for step, value in curve.top1.items() if step in settings.measure_at]
    return Metrics(
        top1_last=top1,
        top1_best=max([top1, *(curve.top1[step] for step in validated)]) if validate_every else None,
        top1_selected=selected,
        selected_epoch=None if best_epoch is None else best_epoch.epoch,
        curve=[*points, (length.steps, top1)] if settings.measure_at else None,
        per_class=per_class,
        student_steps=length.steps,
        label_bytes=label_bytes,
        image_bytes=task.distilled.image_bytes,
        regime=regime,
    )


def evaluate_student(
    task: EvaluateTask, settings: DistilledSetProtocol, source: LabelSource, schedule: Schedule = cosine
) -> Metrics:
    """Trains the task's student on the views and labels of a source and measures it.

    Args:
        task: The task.
        settings: The protocol.
        source: The views and labels.
        schedule: The schedule of the learning rate after the warm-up.

    Returns:
        The metrics of the last epoch and, with `select_share`, of the selected epoch.
    """
    weights = sample_weights(source.task) * settings.loss_scale

    def epoch_batches(epoch: int) -> Iterator[Batch]:
        for batch in source.batches(source.views(epoch), strategy.current_strategy().shard):
            loss = weighted(source.losses(epoch, batch), weights[batch.rows])
            yield Batch(batch.images, loss, batch.global_size)

    try:
        return train_and_measure(
            task,
            settings,
            epoch_batches,
            settings.training(source.batch_size),
            source.length,
            source.label_bytes,
            source.regime,
            settings.validate_every,
            with_warmup(settings.warmup_epochs, schedule),
            best_epoch=None if settings.select_share is None else BestEpoch(score_on(task, source.held_out)),
            average=None if settings.average_decay is None else WeightAverage(settings.average_decay),
        )
    finally:  # invalid labels are the reason of a loss that is not finite
        source.check()


def evaluate_with_siamese_augmentation(
    task: EvaluateTask,
    settings: EpochsOrSteps,
    training: TrainingSettings,
    operations: str | None,
    soft_labels: Tensor | None = None,
) -> Metrics:
    """Trains the task's student under the protocol of DC, DSA, DM and MTT and measures it. Images may be floats.

    Args:
        task: The task.
        settings: The protocol.
        training: The hyper-parameters of the training run.
        operations: The strategy of siamese augmentation; None for no augmentation.
        soft_labels: Probabilities, float32 [m, K], for the cross-entropy; None: the classes.

    Returns:
        The metrics of the last epoch.
    """
    device, size = task.device, task.dataset.info.image_size
    mean, std = task.dataset.mean.to(device), task.dataset.std.to(device)
    labels = task.labels if soft_labels is None else soft_labels
    weights, pixels, targets = sample_weights(task), task.distilled.pixels, labels.to(device)
    seed = seeds.derive("student", task.seed)
    batches = batch_slices(len(labels), training.batch_size)

    def losses_of(rows: Tensor) -> SampleLosses:
        return lambda logits: functional.cross_entropy(logits, targets[rows], reduction="none")

    def epoch_batches(epoch: int) -> Iterator[Batch]:
        order = torch.randperm(len(labels), generator=seeds.generator("siamese", seed, epoch, "order"))
        draws = seeds.generator("siamese", seed, epoch, "augmentation")
        for part in batches:
            images = normalise(to_device(pixels[order[part]], device), mean, std)
            if operations is not None:
                images = augment(images, draw_augmentation(operations, size, draws, len(images)))
            shard = strategy.current_strategy().shard(part)
            rows = to_device(order[shard], device)
            images = images[shard.start - part.start : shard.stop - part.start]
            yield Batch(images, weighted(losses_of(rows), weights[rows]), part.stop - part.start)

    regime = "hard" if soft_labels is None else "soft"
    length, label_bytes = settings.length(len(batches)), labels.nbytes // task.distilled.images_per_stored
    return train_and_measure(
        task, settings, epoch_batches, training, length, label_bytes, regime, schedule=step_at_half
    )


def evaluate_on_real_images(task: EvaluateTask, cutmix_alpha: float | None) -> Metrics:
    """Trains the task's student on the real training set with the teacher's hyper-parameters and measures it.

    Args:
        task: The task.
        cutmix_alpha: alpha of CutMix's Beta(alpha, alpha) distribution; None: no CutMix.

    Returns:
        The metrics of the last epoch.
    """
    student = task.student()
    steps = train_on_real_images(
        student,
        task.dataset,
        task.teacher_training,
        seeds.derive("student", task.seed),
        task.device,
        task.precision,
        task.checkpoint,
        task.report,
        cutmix_alpha,
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
