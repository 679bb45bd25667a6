"""The epoch of a student chosen on distilled images: which ones are held out from training, and the score on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from ddbench.augment.crops import normalise
from ddbench.core import seeds
from ddbench.core.errors import DDBenchError
from ddbench.nn import memory
from ddbench.nn.device import autocast
from ddbench.training.batches import to_device

if TYPE_CHECKING:
    from ddbench.api.context import EvaluateTask


def held_out(labels: Tensor, share: float, seed: int) -> Tensor:
    """bool [m]: the images of a set that are held out, drawn by (`seed`, class); labels int64 [m].

    Of each class the share (0 to 1, rounded), at least one image, and at least one is left. Raises DDBenchError where
    a class has one image alone.
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in torch.unique(labels).tolist():
        mine = (labels == label).nonzero().squeeze(1)
        if len(mine) < 2:
            raise DDBenchError(f"evaluator.select_share: class {label} has one distilled image, and none to hold out")
        count = min(max(1, round(share * len(mine))), len(mine) - 1)
        order = torch.randperm(len(mine), generator=seeds.generator("held out", seed, label))
        held[mine[order[:count]]] = True
    return held


def split(task: EvaluateTask, share: float | None) -> tuple[EvaluateTask, Tensor]:
    """A task with the images to train on, their weights scaled anew, and which images are held out: bool [m].

    Drawn by the student's seed, so that every label regime trains on the same images. Nothing is held out where
    `share` is None.
    """
    if share is None:
        return task, torch.zeros(len(task.labels), dtype=torch.bool)
    held = held_out(task.labels, share, task.seed)
    try:
        rest = task.distilled.part((~held).nonzero().squeeze(1))
    except DDBenchError as error:
        raise DDBenchError(f"evaluator.select_share leaves too few images: {error}") from error
    return task.with_distilled(rest), held


def score_on(task: EvaluateTask, rows: Tensor, batch_size: int = 256) -> Callable[[nn.Module], tuple[float, float]]:
    """The score of a student on some images of the set (bool [m]), as stored: top-1 on their classes, then loss.

    Top-1 in percent; of equal ones the lower mean cross-entropy with the class decides, its sign turned. Where memory
    runs out fewer images go through the student at once.
    """
    images, labels = task.images[rows], task.labels[rows]
    mean, std = task.dataset.mean.to(task.device), task.dataset.std.to(task.device)
    together = memory.OOMBatcher("held-out images")

    @torch.no_grad()
    def score(student: nn.Module) -> tuple[float, float]:
        student.eval()

        def passed(size: int) -> Tensor:
            parts = []
            for part in torch.split(images, size):
                batch = normalise(to_device(part, task.device), mean, std)
                with autocast(task.device, task.precision):
                    parts.append(student(batch.contiguous(memory_format=torch.channels_last)))
            return torch.cat(parts).float().cpu()

        logits = together(passed, min(batch_size, len(images)))
        right = (logits.argmax(1) == labels).double().mean()
        # A checkpoint holds the score, and JSON no infinity: where a loss is not finite, the largest number stands.
        loss = functional.cross_entropy(logits, labels).nan_to_num(nan=torch.finfo(torch.float32).max)
        return 100 * float(right), -float(loss)

    return score
