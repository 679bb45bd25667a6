"""FKD: the teacher's logits of every view, computed online, stored in the cache, or read from a folder of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddbench.augment.views import EpochViews, batch_slices
from ddbench.core.errors import DDBenchError
from ddbench.distillation.distilled_set import DistilledSet, class_weights
from ddbench.evaluators.label_budgets import ALL_LABELS, LabelBudget
from ddbench.evaluators.labels import LabelSource, SampleLosses, divergences, require_half, teacher_logits
from ddbench.evaluators.length import Length
from ddbench.evaluators.packed_views import num_bytes, pack_views, unpack_views
from ddbench.training.batches import to_device
from ddbench.training.view_batches import ViewBatch

if TYPE_CHECKING:
    from ddbench.api.context import EvaluateTask
    from ddbench.evaluators.base import DistilledSetProtocol
    from ddbench.evaluators.label_folders import Labels


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
