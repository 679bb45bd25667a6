"""Selection of a student's epoch on distilled images that are held out from training."""

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
    """Draws the images that are held out, at random within each class and seeded by (`seed`, class).

    Args:
        labels: The classes of the distilled images, int64 [m].
        share: The fraction of each class, between 0 and 1. The number of images is rounded; at least one image is held
            out, and at least one is not.
        seed: The student's seed.

    Returns:
        Whether each image is held out, bool [m].

    Raises:
        DDBenchError: If a class has only one image.

    Example:
        >>> held_out(torch.tensor([0, 0, 0, 1, 1]), share=0.2, seed=0)
        tensor([False, False,  True,  True, False])
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in torch.unique(labels).tolist():
        rows = (labels == label).nonzero().squeeze(1)
        if len(rows) < 2:
            raise DDBenchError(
                f"evaluator.select_share: class {label} has one distilled image, so none can be held out"
            )
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        order = torch.randperm(len(rows), generator=seeds.generator("held out", seed, label))
        held[rows[order[:count]]] = True
    return held


def split(task: EvaluateTask, share: float | None) -> tuple[EvaluateTask, Tensor]:
    """Splits the distilled set into images to train on and images that are held out.

    The split depends on the student's seed, so that every label regime trains on the same images.

    Args:
        task: The task with the whole distilled set of m images.
        share: The fraction of each class that is held out; None holds out nothing.

    Returns:
        A task with the images to train on, whose weights are normalised again, and whether each image of the whole set
        is held out, bool [m].

    Raises:
        DDBenchError: If too few images are left.
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
    """Returns a function that scores a student on some images of the distilled set, without augmentation.

    If memory runs out, batches become smaller.

    Args:
        task: The task with the whole distilled set of m images.
        rows: Whether each image is used, bool [m].
        batch_size: The largest batch.

    Returns:
        A function that returns the top-1 in percent and the negative of the mean cross-entropy, which breaks ties
        between epochs of equal top-1.
    """
    images, labels = task.images[rows], task.labels[rows]
    mean, std = task.dataset.mean.to(task.device), task.dataset.std.to(task.device)
    batcher = memory.OOMBatcher("held-out images")

    @torch.no_grad()
    def score(student: nn.Module) -> tuple[float, float]:
        student.eval()

        def logits_in_batches(size: int) -> Tensor:
            parts = []
            for part in torch.split(images, size):
                batch = normalise(to_device(part, task.device), mean, std)
                with autocast(task.device, task.precision):
                    parts.append(student(batch.contiguous(memory_format=torch.channels_last)))
            return torch.cat(parts).float().cpu()

        logits = batcher(logits_in_batches, min(batch_size, len(images)))
        accuracy = (logits.argmax(1) == labels).double().mean()
        # The score is stored in a checkpoint as JSON, which has no infinity.
        loss = functional.cross_entropy(logits, labels).nan_to_num(nan=torch.finfo(torch.float32).max)
        return 100 * float(accuracy), -float(loss)

    return score
