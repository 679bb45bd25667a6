"""Batches of training, and how they reach the device."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """The images of one optimiser step, and their loss.

    Attributes:
        images: Normalised float32 [B, 3, S, S], on the device.
        loss: Computes the loss, a scalar, from the logits [B, classes].
        global_size: The number of images of the step over all processes. If it is given, `images` are this process's
            shard (`Strategy.shard`) and `loss` is their mean. None: this process has all images.
    """

    images: Tensor
    loss: Callable[[Tensor], Tensor]
    global_size: int | None = None


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor to a device. A copy from the host to CUDA uses pinned memory and does not block the host.

    Args:
        tensor: The tensor, on any device.
        device: The target.

    Returns:
        The copy, or `tensor` itself if it is on `device` already.

    Example:
        >>> to_device(torch.tensor([1, 2]), torch.device("cpu"))
        tensor([1, 2])
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def prefetch(items: Iterable[T], device: torch.device) -> Generator[T, None, None]:
    """Computes each item in a background thread while `device` uses the previous one.

    On a CPU each item is computed when it is needed, without a thread. A second thread that runs tensor operations
    would have its own pool of OpenMP threads, and more OpenMP threads than cores make every operation slow.

    Args:
        items: The items. Their iterator runs in the background thread.
        device: The device that uses the items.

    Yields:
        The items, in the same order.

    Example:
        >>> list(prefetch(range(3), torch.device("cpu")))
        [0, 1, 2]
    """
    if device.type == "cpu":
        yield from items
        return
    end = object()
    iterator = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        future = pool.submit(next, iterator, end)
        while (item := future.result()) is not end:
            future = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]  # `end` is the only item that is no T
