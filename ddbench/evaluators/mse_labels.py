"""The label source of EDC and G-VBSM: the teacher's logits of every view, and the classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional

from ddbench.evaluators.fkd_labels import OnlineLabels
from ddbench.evaluators.labels import SampleLosses

if TYPE_CHECKING:
    from ddbench.api.context import EvaluateTask
    from ddbench.evaluators.base import DistilledSetProtocol
    from ddbench.training.view_batches import ViewBatch


def mse_gt(logits: Tensor, teacher: Tensor, classes: Tensor, ce_weight: float) -> Tensor:
    """Computes MSE-GT of each sample: the mean squared error of the logits, plus the weighted cross-entropy.

    Source: `shaoshitong/EDC:Branch_ImageNet_10/train/direct_train.py` (`mse_gt`), as in G-VBSM.

    Args:
        logits: The student's logits [B, K].
        teacher: The teacher's logits [B, K].
        classes: The classes, int64 [B].
        ce_weight: The weight of the cross-entropy.

    Returns:
        The losses [B].

    Example:
        >>> import torch
        >>> mse_gt(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]), torch.tensor([1]), 0.5)  # (4 + 0) / 2 + ln(2) / 2
        tensor([2.3466])
    """
    squared = (logits - teacher).square().mean(1)
    return squared + ce_weight * functional.cross_entropy(logits, classes, reduction="none")


class LogitsAndClasses(OnlineLabels):
    """The teacher's logits of every view and the classes, for MSE-GT.

    Args:
        task: The task with the whole distilled set.
        settings: The protocol.
        ce_weight: The weight of the cross-entropy with the class of the image that CutMix pastes onto.
    """

    def __init__(self, task: EvaluateTask, settings: DistilledSetProtocol, ce_weight: float) -> None:
        super().__init__(task, settings, temperature=1.0)  # MSE-GT has none
        self.ce_weight = ce_weight
        self.targets = self.task.labels.to(task.device)

    def losses(self, epoch: int, batch: ViewBatch) -> SampleLosses:
        """Returns MSE-GT with the teacher's logits of the same views."""
        teacher, classes = self.logits(epoch, batch).float(), self.targets[batch.rows]
        return lambda logits: mse_gt(logits, teacher, classes, self.ce_weight)

    @property
    def label_bytes(self) -> int:
        """The bytes of the labels as under fkd, and of the int64 classes."""
        return super().label_bytes + self.task.labels.nbytes // self.task.distilled.images_per_stored
