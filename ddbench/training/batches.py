"""The one training loop: teacher, student and the full-data reference; and how accuracy is measured."""

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
    """One optimiser step: normalised `images` float32 [B, 3, S, S] on the device, a `loss` of the logits.

    `whole`: how many images the step has, where `images` are this process's share of them (`Strategy.share`) and
    `loss` is their mean. None: all are here.
    """

    images: Tensor
    loss: Callable[[Tensor], Tensor]
    whole: int | None = None


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy from the host that a CUDA device need not be waited for."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def prefetched(items: Iterable[T], device: torch.device) -> Generator[T, None, None]:
    """The same items in the same order, each made in a background thread while `device` uses the one before it.

    On a CPU each is made when it is asked for: a thread with operations of its own has OpenMP threads of its own, and
    as soon as there are more of them than cores all go to sleep at the end of every operation.
    """
    if device.type == "cpu":
        yield from items
        return
    end = object()
    iterator = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        ahead = pool.submit(next, iterator, end)
        while (item := ahead.result()) is not end:
            ahead = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]  # `end` is the only item that is no T
