"""Outputs of networks on all evaluation images, or on all images of a set."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ddbench.api.measure import MeasureTask
from ddbench.nn.device import autocast
from ddbench.nn.memory import in_parts

BATCH_SIZE = 256


def evaluation_batches(task: MeasureTask) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the evaluation images, uint8 [B, 3, S, S], with their labels, int64 [B], both on the CPU, and reports."""
    images, size = task.dataset.val, task.dataset.info.image_size
    rows = torch.split(torch.arange(len(images)), BATCH_SIZE)
    for number, part in enumerate(rows):
        yield images.centre(part, size), images.labels[part]
        task.report(number + 1, len(rows))


@torch.no_grad()
def outputs(network: Callable[[Tensor], Tensor], batches: Iterator[Tensor], device: torch.device) -> Tensor:
    """Returns the outputs of a network for batches of images, float32 on the CPU. Divides a batch that is too large.

    Args:
        network: Takes a batch on the device and returns [B, d].
        batches: Images on the CPU.
        device: The device.
    """
    forward = in_parts(lambda batch: [network(batch).float()], "images")
    return torch.cat([forward(batch.to(device))[0].cpu() for batch in batches])


def student_logits(task: MeasureTask, change: Callable[[Tensor], Tensor] = lambda pixels: pixels) -> Tensor:
    """Returns the student's logits of all evaluation images, float32 [n, K], in the precision of top-1.

    Args:
        task: The task.
        change: Changes a batch of images, uint8 [B, 3, S, S] on the CPU.
    """

    def network(pixels: Tensor) -> Tensor:
        batch = task.dataset.normalise(pixels)
        with autocast(task.device, task.precision):
            logits: Tensor = task.student(batch.contiguous(memory_format=torch.channels_last))
        return logits

    return outputs(network, (change(pixels) for pixels, _ in evaluation_batches(task)), task.device)


def set_features(task: MeasureTask) -> Tensor:
    """Returns the teacher's features of the distilled images, float32 [m, d], in the order of the set."""

    def network(pixels: Tensor) -> Tensor:
        return task.teacher(task.dataset.normalise(pixels), bn=False).features

    return outputs(network, iter(torch.split(task.distilled.pixels, BATCH_SIZE)), task.device)
