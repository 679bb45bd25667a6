"""Label sources of a student: the teacher's logits of every view, one soft label per image, or the classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ddbench.augment import crops
from ddbench.augment import views as views_module
from ddbench.augment.views import EpochViews, batch_slices
from ddbench.core import seeds
from ddbench.core.errors import DDBenchError
from ddbench.distillation.distilled_set import DistilledSet, class_weights
from ddbench.evaluators.label_budgets import ALL_LABELS, LabelBudget
from ddbench.evaluators.length import Length
from ddbench.evaluators.packed_views import num_bytes, pack_views, unpack_views
from ddbench.evaluators.selection import split
from ddbench.nn import memory
from ddbench.nn.device import autocast
from ddbench.nn.layers import batch_statistics
from ddbench.training.batches import to_device
from ddbench.training.view_batches import ViewBatch, view_batches

if TYPE_CHECKING:
    from ddbench.api.context import EvaluateTask
    from ddbench.api.teacher import Teacher
    from ddbench.evaluators.base import DistilledSetProtocol
    from ddbench.evaluators.label_folders import Labels

SampleLosses = Callable[[Tensor], Tensor]
"""Maps the student's logits, float32 [B, K], to the loss of each sample [B]."""


def teacher_logits(
    task: EvaluateTask,
    images: Tensor,
    networks: Sequence[str] = (),
    weights: Sequence[float] = (),
    of_batch: bool = False,
) -> Tensor:
    """Computes the teacher's logits, or their mean over several teachers. If memory runs out, in parts.

    G-VBSM and EDC average logits, not probabilities (`shaoshitong/G_VBSM_Dataset_Condensation:Branch_CIFAR_10/relabel/
    generate_soft_label_with_db.py`, `shaoshitong/EDC:Branch_CIFAR_10/train/direct_train.py`).

    Args:
        task: The task.
        images: Normalised images [B, 3, S, S] on the device.
        networks: The networks of the teachers; empty: the configured teacher.
        weights: The weights of the teachers in the mean, of sum 1; empty: equal weights.
        of_batch: Whether the BatchNorm layers of the teachers use the statistics of `images`; false: their running
            statistics. A batch is then not divided if memory runs out.

    Returns:
        Logits on the device [B, K].
    """
    teachers = task.teachers(*networks) if networks else [task.teacher]

    def logits_of(teacher: Teacher, view: Tensor) -> Tensor:
        with batch_statistics(teacher.network) if of_batch else nullcontext():
            return teacher(view, bn=False).logits

    def forward(part: Tensor) -> list[Tensor]:
        with torch.no_grad(), autocast(task.device, task.precision):
            view = part.contiguous(memory_format=torch.channels_last)
            logits = [logits_of(teacher, view) for teacher in teachers]
        if len(logits) == 1:
            return logits
        of_teachers = torch.stack(logits).float()
        return [torch.tensordot(of_teachers.new_tensor(weights), of_teachers, 1) if weights else of_teachers.mean(0)]

    (logits,) = forward(images) if of_batch else memory.in_parts(forward, "views")(images)
    return logits


def require_half(largest: Tensor) -> None:
    """Raises DDBenchError if the largest absolute logit, a scalar, is not finite in fp16."""
    if not bool(largest.half().isfinite()):
        raise DDBenchError(
            "labels: the teacher's logits are not finite in fp16, whose largest number is 65504 "
            f"(largest logit: {float(largest):g}): check the teacher's weights"
        )


def divergences(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Computes KL(targets || softmax(logits / temperature)) of each sample, without the factor T^2.

    The mean over samples is the loss of the released FKD training code (`batchmean`).

    Args:
        logits: The student's logits [B, K].
        targets: The teacher's probabilities, float32 [B, K].
        temperature: The temperature of the student's softmax.

    Returns:
        The divergences [B].

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> divergences(logits, torch.softmax(logits[:1] / 4, 1), temperature=4.0).round(decimals=4)
        tensor([0.0000, 0.1225])
    """
    return functional.kl_div(functional.log_softmax(logits / temperature, 1), targets, reduction="none").sum(1)


def mixed(targets: Tensor, batch: ViewBatch) -> Tensor:
    """Mixes the targets of each view's two images in proportion to their areas.

    Args:
        targets: The probabilities of the distilled images [m, K].
        batch: The views.

    Returns:
        The probabilities of the views [B, K].
    """
    return batch.share * targets[batch.rows] + (1 - batch.share) * targets[batch.pasted]


class LabelSource(ABC):
    """The views and labels of one student, for every epoch.

    Args:
        task: The task with the whole distilled set.
        settings: The protocol.

    Attributes:
        regime: The label regime, as in `Metrics`.
        task: A task with the images that are trained on.
        held_out: The images of the whole set that are held out, bool [m].
        count: The number of images that are trained on.
        batch_size: The images per step, at most `count`.
    """

    regime: ClassVar[str]

    def __init__(self, task: EvaluateTask, settings: DistilledSetProtocol) -> None:
        self.task, self.held_out = split(task, settings.select_share)
        self.settings = settings
        self.count = len(self.task.labels)
        self.batch_size = min(settings.batch_size, self.count)

    @property
    def length(self) -> Length:
        """The length of the student's training."""
        return self.settings.length(len(batch_slices(self.count, self.batch_size)))

    def views(self, epoch: int) -> EpochViews:
        """Returns the views of an epoch. They depend on the student's seed and the epoch, not on the label regime."""
        size = self.task.dataset.info.image_size
        settings = self.settings
        views = views_module.epoch_views(
            self.count,
            torch.tensor([size, size]),
            seeds.derive("student", self.task.seed),
            epoch,
            self.batch_size,
            (settings.min_crop, 1.0),
            settings.cutmix_alpha,
            size,
            settings.shuffle_factor,
            settings.colour_noise,
        )
        return views.unaugmented(size) if settings.augmentation == "none" else views

    def batches(self, views: EpochViews, shard: Callable[[slice], slice] = lambda batch: batch) -> Iterator[ViewBatch]:
        """Yields the batches of an epoch; see `view_batches`."""
        return view_batches(self.task.images.__getitem__, self.task.dataset, views, self.task.device, shard)

    @abstractmethod
    def losses(self, epoch: int, batch: ViewBatch) -> SampleLosses:
        """Returns the function that computes the loss of each sample of a batch.

        Args:
            epoch: The epoch of the batch.
            batch: A batch of `views(epoch)`.
        """

    def check(self) -> None:  # noqa: B027 (fixed labels need no check)
        """Raises DDBenchError if a label so far is invalid. Called after the training.

        A check in `losses` would make the host wait for the device in every step.
        """

    @property
    @abstractmethod
    def label_bytes(self) -> int:
        """The bytes of the labels of the whole training run."""


class OnlineLabels(LabelSource):
    """FKD with teacher logits that are computed at every step.

    Args:
        task: The task with the whole distilled set.
        settings: The protocol.
        temperature: The temperature of both softmaxes.
        budget: The labels that are stored, and their form. Online labels are converted to this form and back.
        weights: The weights of the teachers; see `teacher_logits`.
        of_batch: Whether the teachers label with the statistics of the batch; see `teacher_logits`.

    Attributes:
        classes: The number of classes K.
        empty_label: A label as it is stored, for the names, shapes and dtypes of its tensors.
    """

    regime = "fkd"

    def __init__(
        self,
        task: EvaluateTask,
        settings: DistilledSetProtocol,
        temperature: float,
        budget: LabelBudget = ALL_LABELS,
        weights: Sequence[float] = (),
        of_batch: bool = False,
    ) -> None:
        super().__init__(task, settings)
        self.temperature, self.budget, self.weights, self.of_batch = temperature, budget, weights, of_batch
        self._largest = torch.zeros(())
        self.classes = task.dataset.info.num_classes
        self.empty_label = budget.encode(torch.zeros(1, self.classes, dtype=torch.float16), temperature)

    @property
    def label_epochs(self) -> int:
        """The number of epochs whose views and labels are stored."""
        return self.budget.epochs(self.length.epochs)

    def views(self, epoch: int) -> EpochViews:
        """Returns the views of an epoch: those of epoch number `epoch` mod `label_epochs`."""
        return super().views(epoch % self.label_epochs)

    def encoded(self, epoch: int, batch: ViewBatch) -> Mapping[str, Tensor]:
        """Returns the labels of a batch as they are stored (`LabelBudget.encode`), on the device.

        Raises:
            DDBenchError: The labels need the statistics of the batch, and this process has a part of it.
        """
        if self.of_batch and len(batch.images) < batch.global_size:
            raise DDBenchError(
                "evaluator.label_statistics=batch: each of several processes has a part of the batch: compute the "
                "labels before the training (--set evaluator.labels=stored)"
            )
        pool = self.settings.teacher_pool()
        logits = teacher_logits(self.task, batch.images, pool, self.weights, self.of_batch)
        largest = logits.float().abs().amax()
        self._largest = torch.maximum(largest, self._largest.to(largest.device))
        return self.budget.encode(logits.half(), self.temperature)

    def check(self) -> None:
        """Checks that the logits are finite in fp16."""
        require_half(self._largest)

    def logits(self, epoch: int, batch: ViewBatch) -> Tensor:
        """Returns the logits of the labels of a batch on the device [B, K], float16 without a budget."""
        return self.budget.decode(self.encoded(epoch, batch), self.classes)

    def losses(self, epoch: int, batch: ViewBatch) -> SampleLosses:
        """Returns the KL divergence to the teacher's logits of the same views."""
        targets = torch.softmax(self.logits(epoch, batch).float() / self.temperature, 1)
        return lambda logits: divergences(logits, targets, self.temperature)

    @property
    def label_bytes(self) -> int:
        """The bytes that `StoredLabels` would store: labels, order, boxes, flips and CutMix of every view."""
        return self.label_epochs * (num_bytes(pack_views(self.views(0))) + self.count * num_bytes(self.empty_label))


class StoredLabels(OnlineLabels):
    """FKD with the views and labels of every epoch from one file in the cache.

    Args:
        task: The task with the whole distilled set.
        settings: The protocol.
        temperature: The temperature of both softmaxes.
        budget: The labels that are stored, and their form.
        weights: As in `OnlineLabels`.
        of_batch: As in `OnlineLabels`.
    """

    @cached_property
    def stored(self) -> dict[str, Tensor]:
        """The tensors of the file: the labels and the views of every stored epoch."""
        return self.task.cached("labels", {"seed": self.task.seed}, self._relabel)

    def _relabel(self) -> dict[str, Tensor]:
        epochs = self.label_epochs
        labels = {
            name: torch.empty(epochs, self.count, *label.shape[1:], dtype=label.dtype)
            for name, label in self.empty_label.items()
        }
        packed: list[dict[str, Tensor]] = []
        for epoch in range(epochs):
            views = super().views(epoch)
            packed.append(pack_views(views))
            for batch in self.batches(views):
                for name, label in super().encoded(epoch, batch).items():
                    labels[name][epoch, batch.positions] = label.cpu()
            self.check()
            self.task.report(epoch + 1, epochs)
        return {**labels, **{name: torch.stack([part[name] for part in packed]) for name in packed[0]}}

    def views(self, epoch: int) -> EpochViews:
        """Returns the stored views of an epoch."""
        packed = {name: tensor[epoch % self.label_epochs] for name, tensor in self.stored.items()}
        batches = batch_slices(self.count, self.batch_size)
        return unpack_views(packed, batches, self.task.dataset.info.image_size)

    def encoded(self, epoch: int, batch: ViewBatch) -> Mapping[str, Tensor]:
        """Returns the stored labels of a batch on the device."""
        number = epoch % self.label_epochs
        return {
            name: to_device(self.stored[name][number, batch.positions], self.task.device) for name in self.empty_label
        }

    @property
    def label_bytes(self) -> int:
        """The bytes of the stored tensors."""
        return num_bytes(self.stored)


class ReplayedLabels(OnlineLabels):
    """FKD with the views and logits of a folder of labels. One epoch is in memory.

    Args:
        task: The task with the whole distilled set.
        settings: The protocol.
        temperature: The temperature of both softmaxes.
        labels: The labels.

    Raises:
        DDBenchError: The labels are not of this set, of fewer epochs, or for another temperature. The message is one
            line.
    """

    def __init__(self, task: EvaluateTask, settings: DistilledSetProtocol, temperature: float, labels: Labels) -> None:
        super().__init__(task, settings, temperature)
        self.labels = labels
        if labels.epochs < self.length.epochs:
            unit, most = ("epochs", 1) if settings.steps is None else ("steps", len(labels.batches))
            raise DDBenchError(
                f"evaluator.{unit}={getattr(settings, unit)}: there are labels of {labels.epochs} epochs "
                f"(--set evaluator.{unit}={labels.epochs * most})"
            )
        if labels.temperature not in (None, temperature):
            raise DDBenchError(
                f"evaluator.temperature={temperature:g}: the largest probabilities in the labels are those at "
                f"{labels.temperature:g} (--set evaluator.temperature={labels.temperature:g})"
            )
        count, is_whole = len(labels.rows), torch.equal(labels.rows, torch.arange(len(labels.rows)))
        if int(labels.rows.max()) >= self.count or (is_whole and count < self.count):
            raise DDBenchError(f"the labels are of {count} images, and the set has {self.count}")
        distilled = task.distilled if is_whole else task.distilled.part(labels.rows)
        if labels.weights is not None:
            assert isinstance(distilled, DistilledSet)
            distilled = replace(distilled, weights=class_weights(distilled.labels, labels.weights))
        self.task, self.count = task.with_distilled(distilled), count
        self.batch_size = max(batch.stop - batch.start for batch in labels.batches)
        self._loaded: tuple[int, Mapping[str, Tensor]] = (-1, {})

    @property
    def length(self) -> Length:
        """The length of the student's training, in batches of the files."""
        return self.settings.length(len(self.labels.batches))

    def _epoch(self, epoch: int) -> Mapping[str, Tensor]:
        if self._loaded[0] != epoch:
            self._loaded = (epoch, self.labels.epoch(epoch))
        return self._loaded[1]

    def views(self, epoch: int) -> EpochViews:
        """Returns the stored views of an epoch."""
        return unpack_views(self._epoch(epoch), self.labels.batches, self.task.dataset.info.image_size)

    def logits(self, epoch: int, batch: ViewBatch) -> Tensor:
        """Returns the stored logits of a batch on the device [B, K]."""
        return to_device(self._epoch(epoch)["logits"][batch.positions], self.task.device)

    @property
    def label_bytes(self) -> int:
        """The bytes of the files' tensors for the student's epochs."""
        return self.labels.num_bytes(self.length.epochs)


class FixedSoftLabels(LabelSource):
    """One soft label per image, from the teacher's logits of the stored image without augmentation.

    Args:
        task: The task with the whole distilled set.
        settings: The protocol.
        temperature: The temperature of both softmaxes.
    """

    regime = "soft"

    def __init__(self, task: EvaluateTask, settings: DistilledSetProtocol, temperature: float) -> None:
        super().__init__(task, settings)
        self.temperature = temperature
        device, images = task.device, self.task.images
        mean, std = task.dataset.mean.to(device), task.dataset.std.to(device)
        parts = batch_slices(self.count, self.batch_size)
        views = (crops.normalise(to_device(images[rows], device), mean, std) for rows in parts)
        logits = torch.cat([teacher_logits(task, view, settings.teacher_pool()) for view in views])
        require_half(logits.float().abs().amax())
        self.targets = torch.softmax(logits.half().float() / self.temperature, 1)

    def losses(self, epoch: int, batch: ViewBatch) -> SampleLosses:
        """Returns the KL divergence to the soft labels, mixed by area."""
        targets = mixed(self.targets, batch)
        return lambda logits: divergences(logits, targets, self.temperature)

    @property
    def label_bytes(self) -> int:
        """The bytes of one fp16 logit per image and class."""
        return self.targets.numel() * 2


class ClassLabels(LabelSource):
    """The class of each image.

    Args:
        task: The task with the whole distilled set.
        settings: The protocol.
    """

    regime = "hard"

    def __init__(self, task: EvaluateTask, settings: DistilledSetProtocol) -> None:
        super().__init__(task, settings)
        self.targets = functional.one_hot(self.task.labels, task.dataset.info.num_classes).float().to(task.device)

    def losses(self, epoch: int, batch: ViewBatch) -> SampleLosses:
        """Returns the cross-entropy with the class; for a mixed image with both classes, mixed by area."""
        targets = mixed(self.targets, batch)
        return lambda logits: functional.cross_entropy(logits, targets, reduction="none")

    @property
    def label_bytes(self) -> int:
        """The bytes of the int64 labels of the stored images."""
        return self.task.labels.nbytes // self.task.distilled.images_per_stored
