"""Where a student's labels come from: the teacher, on every view or once an image, or the classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ddbench.augment import crops, mixing
from ddbench.augment import views as views_module
from ddbench.augment.mixing import Mix
from ddbench.augment.views import EpochViews, batch_slices
from ddbench.core import seeds
from ddbench.core.errors import DDBenchError
from ddbench.evaluators.selection import split
from ddbench.nn import memory
from ddbench.nn.device import autocast
from ddbench.training.batches import to_device

if TYPE_CHECKING:
    from ddbench.api.context import EvaluateTask
    from ddbench.evaluators.base import DistilledSetProtocol

SampleLosses = Callable[[Tensor], Tensor]
"""Float32 logits [B, K] of the student to one loss a sample [B]."""


@dataclass(frozen=True)
class ViewBatch:
    """One batch of views on the device, CutMix done: `images` normalised float32 [B, 3, S, S].

    `positions` in the epoch, of a batch of `whole` views; `rows` int64 [B]: the image of the set that each view shows;
    `pasted` int64 [B]: the one that CutMix took from; `share` of the view's area that shows `rows`.
    """

    positions: slice
    whole: int
    images: Tensor
    rows: Tensor
    pasted: Tensor
    share: float


def view_batches(
    task: EvaluateTask, epoch: EpochViews, mine: Callable[[slice], slice] = lambda batch: batch
) -> Iterator[ViewBatch]:
    """The batches of one epoch over a task's distilled images, in order; `mine` says which positions of each."""
    device, size = task.device, task.dataset.info.image_size
    mean, std = task.dataset.mean.to(device), task.dataset.std.to(device)
    order, boxes, flips = (to_device(part, device) for part in (epoch.order, epoch.boxes, epoch.flips))

    def seen(positions: slice | Tensor) -> Tensor:
        where = to_device(positions, device) if isinstance(positions, Tensor) else positions
        pixels = to_device(task.images[epoch.order[positions]], device).float() / 255
        return crops.normalise(crops.crop_resize(pixels, boxes[where], size, flips[where]), mean, std)

    for number, batch in enumerate(epoch.batches):
        part = mine(batch)
        images, rows = seen(part), order[part]
        pasted, share = rows, 1.0
        if epoch.mixes:
            mix = epoch.mixes[number]
            share = mix.share
            if part == batch:
                partner = to_device(mix.partner, device)
                images, pasted = mixing.cutmix(images, partner, mix.box), rows[partner]
            else:  # a partner may be in another process's part
                partner = batch.start + mix.partner[part.start - batch.start : part.stop - batch.start]
                images, pasted = mixing.paste(images, seen(partner), mix.box), order[to_device(partner, device)]
        yield ViewBatch(part, batch.stop - batch.start, images, rows, pasted, share)


def teacher_logits(task: EvaluateTask, images: Tensor) -> Tensor:
    """The teacher's logits of normalised images [B, 3, S, S], rounded to fp16: [B, K] on the device.

    Where memory runs out a batch goes through the teacher in parts. Raises DDBenchError where a logit is not finite in
    fp16: a student could learn nothing from it, and no label is stored.
    """

    def forward(part: Tensor) -> list[Tensor]:
        with torch.no_grad(), autocast(task.device, task.precision):
            return [task.teacher(part.contiguous(memory_format=torch.channels_last), bn=False).logits]

    (logits,) = memory.in_parts(forward, "views")(images)
    half: Tensor = logits.half()
    if not bool(half.isfinite().all()):
        largest = float(logits.float().abs().max())
        raise DDBenchError(
            f"labels: the teacher's logits are not finite in fp16, which holds up to 65504 (largest: {largest:g}): "
            "are its weights sound?"
        )
    return half


def divergences(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """KL(targets || softmax(logits / temperature)) of each sample [B], without a T^2 factor.

    `targets` float32 [B, K] are probabilities. Source: the released FKD training code (its batchmean is the
    mean).
    """
    return functional.kl_div(functional.log_softmax(logits / temperature, 1), targets, reduction="none").sum(1)


class LabelSource(ABC):
    """Views and labels of every epoch of one student.

    `task` has the images that are trained on; `held_out` says which images of the whole set are not: bool [m].
    """

    regime: ClassVar[str]

    def __init__(self, task: EvaluateTask, settings: DistilledSetProtocol) -> None:
        self.task, self.held_out = split(task, settings.select_share)
        self.settings = settings
        self.count = len(self.task.labels)
        self.batch_size = min(settings.batch_size, self.count)

    def views(self, epoch: int) -> EpochViews:
        """The views of `epoch`: a function of the student's seed and the epoch, the same in every regime."""
        size = self.task.dataset.info.image_size
        settings = self.settings
        return views_module.epoch_views(
            self.count,
            torch.tensor([size, size]),
            seeds.derive("student", self.task.seed),
            epoch,
            self.batch_size,
            (settings.min_crop, 1.0),
            settings.cutmix_alpha,
            size,
        )

    @abstractmethod
    def losses(self, epoch: int, batch: ViewBatch) -> SampleLosses:
        """The loss of each sample of `batch`."""

    @property
    @abstractmethod
    def label_bytes(self) -> int:
        """Bytes of the labels of the whole training run."""


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _pack(epoch: EpochViews) -> dict[str, Tensor]:
    """All that a view is, in the smallest types that hold it (sides of images stay below 2**15)."""
    packed = {"order": epoch.order.int(), "boxes": epoch.boxes.short(), "flips": epoch.flips}
    if epoch.mixes:
        packed["partners"] = torch.cat([mix.partner for mix in epoch.mixes]).int()
        packed["mix_boxes"] = torch.tensor([mix.box for mix in epoch.mixes], dtype=torch.int16)
    return packed


def _unpack(packed: dict[str, Tensor], batches: tuple[slice, ...], size: int) -> EpochViews:
    mixes: tuple[Mix, ...] = ()
    if "partners" in packed:
        boxes: list[mixing.Box] = [tuple(box) for box in packed["mix_boxes"].tolist()]
        mixes = tuple(
            Mix(packed["partners"][part].long(), box, mixing.share_of(box, size))
            for part, box in zip(batches, boxes, strict=True)
        )
    return EpochViews(packed["order"].long(), packed["boxes"].long(), packed["flips"].clone(), batches, mixes)


class OnlineLabels(LabelSource):
    """FKD with the teacher asked at every step."""

    regime = "fkd"

    def __init__(self, task: EvaluateTask, settings: DistilledSetProtocol, temperature: float) -> None:
        super().__init__(task, settings)
        self.temperature = temperature

    def logits(self, epoch: int, batch: ViewBatch) -> Tensor:
        """The teacher's fp16 logits of `batch`, [B, K] on the device."""
        return teacher_logits(self.task, batch.images)

    def losses(self, epoch: int, batch: ViewBatch) -> SampleLosses:
        """KL to the teacher's logits of the very view."""
        targets = torch.softmax(self.logits(epoch, batch).float() / self.temperature, 1)
        return lambda logits: divergences(logits, targets, self.temperature)

    @property
    def label_bytes(self) -> int:
        """What `StoredLabels` would hold: fp16 logits, order, boxes, flips and CutMix of every view."""
        classes = self.task.dataset.info.num_classes
        return self.settings.epochs * (_bytes(_pack(self.views(0))) + self.count * classes * 2)


class StoredLabels(OnlineLabels):
    """FKD replayed from one file: views and logits of every epoch, made once and kept in the cache."""

    def __init__(self, task: EvaluateTask, settings: DistilledSetProtocol, temperature: float) -> None:
        super().__init__(task, settings, temperature)
        self.stored = self.task.cached("labels", {"seed": task.seed}, self._relabel)
        self.batches = super().views(0).batches

    def _relabel(self) -> dict[str, Tensor]:
        epochs = self.settings.epochs
        logits = torch.empty(epochs, self.count, self.task.dataset.info.num_classes, dtype=torch.float16)
        packed: list[dict[str, Tensor]] = []
        for epoch in range(epochs):
            seen = super().views(epoch)
            packed.append(_pack(seen))
            for batch in view_batches(self.task, seen):
                logits[epoch, batch.positions] = super().logits(epoch, batch).cpu()
            self.task.report(epoch + 1, epochs)
        return {
            "logits": logits,
            **{name: torch.stack([part[name] for part in packed]) for name in packed[0]},
        }

    def views(self, epoch: int) -> EpochViews:
        """The views that were stored for `epoch`."""
        packed = {name: tensor[epoch] for name, tensor in self.stored.items() if name != "logits"}
        return _unpack(packed, self.batches, self.task.dataset.info.image_size)

    def logits(self, epoch: int, batch: ViewBatch) -> Tensor:
        """The stored fp16 logits of `batch`, [B, K] on the device."""
        return to_device(self.stored["logits"][epoch, batch.positions], self.task.device)

    @property
    def label_bytes(self) -> int:
        """Bytes of the stored tensors."""
        return _bytes(self.stored)


class FixedSoftLabels(LabelSource):
    """One soft label an image, from the teacher's view of the stored image as it is."""

    regime = "soft"

    def __init__(self, task: EvaluateTask, settings: DistilledSetProtocol, temperature: float) -> None:
        super().__init__(task, settings)
        self.temperature = temperature
        device, images = task.device, self.task.images
        mean, std = task.dataset.mean.to(device), task.dataset.std.to(device)
        parts = batch_slices(self.count, self.batch_size)
        logits = [teacher_logits(task, crops.normalise(to_device(images[rows], device), mean, std)) for rows in parts]
        self.targets = torch.softmax(torch.cat(logits).float() / self.temperature, 1)

    def losses(self, epoch: int, batch: ViewBatch) -> SampleLosses:
        """KL to the soft label, mixed by area."""
        targets = mixed(self.targets, batch)
        return lambda logits: divergences(logits, targets, self.temperature)

    @property
    def label_bytes(self) -> int:
        """One fp16 logit an image and class."""
        return self.targets.numel() * 2


class ClassLabels(LabelSource):
    """The class of each image."""

    regime = "hard"

    def __init__(self, task: EvaluateTask, settings: DistilledSetProtocol) -> None:
        super().__init__(task, settings)
        self.targets = functional.one_hot(self.task.labels, task.dataset.info.num_classes).float().to(task.device)

    def losses(self, epoch: int, batch: ViewBatch) -> SampleLosses:
        """Cross-entropy with the class, or with both classes of a mixed image by area."""
        targets = mixed(self.targets, batch)
        return lambda logits: functional.cross_entropy(logits, targets, reduction="none")

    @property
    def label_bytes(self) -> int:
        """The int64 labels."""
        return self.task.labels.nbytes


def mixed(targets: Tensor, batch: ViewBatch) -> Tensor:
    """Probabilities [m, K] of the set's images to those of the batch's views [B, K], mixed by area."""
    return batch.share * targets[batch.rows] + (1 - batch.share) * targets[batch.pasted]
