"""Label sources of a student: one soft label per image, or the classes; `fkd_labels` has those of every view."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ddbench.augment import crops
from ddbench.augment import views as views_module
from ddbench.augment.views import EpochViews, batch_slices
from ddbench.core import seeds
from ddbench.core.errors import DDBenchError
from ddbench.evaluators.length import Length
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
