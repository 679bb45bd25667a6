"""Out-of-memory handling: reduces a batch if that does not change the results, else raises one clear error.

In evaluation mode (statistics, labels, accuracy, transport cost), a network processes each image independently, so the
parts of a batch give the same results as the whole batch. The recover loop divides a unit in the same way
(`ddbench.distillation.objective`), and a training step divides the batch of a network without BatchNorm
(`ddbench.training.strategy`). Two things are never reduced: the units of a method, because the grouping of slots is
part of the cache key; and the batch of BatchNorm in training mode, because the batch statistics depend on it. A smaller
batch changes the rounding of results, as another number of threads does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ddbench.core.errors import DDBenchError

T = TypeVar("T")

_MESSAGES = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
# The complete message of oneDNN on a CPU. After this error, oneDNN creates no new kernel in this process.
_ONEDNN_MESSAGE = "could not create a primitive"

# Callbacks of the running `oom_errors` blocks, innermost last.
_callbacks: list[Callable[[str], None]] = []


def is_out_of_memory(error: BaseException) -> bool:
    """Tests whether an exception is an out-of-memory error of the device or the host.

    Args:
        error: Any exception.

    Returns:
        True for PyTorch's and Python's own errors, and for the messages of the allocator, cuBLAS, cuDNN and oneDNN.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("shape"))
        (True, False)
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return str(error) == _ONEDNN_MESSAGE or any(text in str(error) for text in _MESSAGES)


class OOMBatcher:
    """Runs a function on a batch, and on smaller batches when memory runs out.

    The size that fits is kept for later calls.

    Args:
        name: Plural name of the batch's items, for messages.

    Example:
        >>> def attempt(size):
        ...     if size > 3:
        ...         raise MemoryError
        ...     return size
        >>> OOMBatcher("images")(attempt, 10)
        3
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._fits: int | None = None

    def __call__(self, attempt: Callable[[int], T], count: int) -> T:
        """Calls `attempt` with the largest size that fits.

        Args:
            attempt: Takes a number of items to process at a time. It is called again, with half the size, after it runs
                out of memory, so a failed call must have no lasting effect.
            count: The first size to try, unless an earlier call needed a smaller one.

        Returns:
            The result of `attempt`.

        Raises:
            RuntimeError: The out-of-memory error, if a single item does not fit. Any other error of `attempt` is raised
                unchanged.
        """
        while True:
            size = count if self._fits is None else min(self._fits, count)
            try:
                return attempt(size)
            except (RuntimeError, MemoryError) as error:
                if size <= 1 or not is_out_of_memory(error):
                    raise
            # Free the cache after the except block: inside it, the traceback still references the tensors.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._fits = (size + 1) // 2
            if _callbacks:
                _callbacks[-1](f"out of memory with {size} {self._name}: continuing with {self._fits} at a time")


def in_parts(forward: Callable[[Tensor], Sequence[Tensor]], name: str) -> Callable[[Tensor], list[Tensor]]:
    """Wraps a forward pass so that it divides its batch when memory runs out.

    Args:
        forward: Takes a batch [B, ...] and returns tensors [B, ...]. Each row of the results may depend on the same row
            of the batch only; then the parts give the numbers of the whole batch up to rounding.
        name: Plural name of the batch's rows, for messages.

    Returns:
        A function of a batch that returns the results of all parts, concatenated. It raises what `OOMBatcher` raises.

    Example:
        >>> in_parts(lambda batch: [2 * batch, batch + 1], "rows")(torch.tensor([1.0, 2.0]))
        [tensor([2., 4.]), tensor([2., 3.])]
    """
    batcher = OOMBatcher(name)

    def forward_in_parts(batch: Tensor) -> list[Tensor]:
        def attempt(size: int) -> list[Tensor]:
            results = [forward(part) for part in torch.split(batch, size)]
            return [torch.cat(column) for column in zip(*results, strict=True)]

        return batcher(attempt, max(1, len(batch)))

    return forward_in_parts


@contextlib.contextmanager
def oom_errors(stage: str, settings: Sequence[tuple[str, object]], callback: Callable[[str], None]) -> Iterator[None]:
    """Turns an out-of-memory error of a stage into one line that names the settings to lower.

    Args:
        stage: Name of the stage, for the message.
        settings: Settings that bound the memory of the stage, as (`section.name`, present value); may be empty.
        callback: Called with one line for each reduction by an `OOMBatcher` in the block. Blocks nest; the innermost
            callback is called.

    Raises:
        DDBenchError: The block ran out of memory and no reduction helped.

    Example:
        >>> with oom_errors("teacher", [("teacher.batch_size", 32)], print):  # doctest: +ELLIPSIS
        ...     raise MemoryError("tried to allocate 2 GiB")
        Traceback (most recent call last):
        ddbench.core.errors.DDBenchError: out of memory in stage 'teacher': lower --set teacher.batch_size (now 32), ...
    """
    _callbacks.append(callback)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        advice = "use a smaller --image-size or a device with more memory"
        if settings:
            names = " or ".join(f"{name} (now {value})" for name, value in settings)
            advice = f"lower --set {names}, which changes the results and starts a new run; or {advice}"
        raise DDBenchError(f"out of memory in stage '{stage}': {advice} ({reason[:200]})") from error
    finally:
        _callbacks.pop()
