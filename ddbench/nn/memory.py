"""Out of memory: the batch is cut where that leaves the numbers as they are; elsewhere one line says what to set.

Where every image goes through a network in evaluation mode for itself (statistics, labels, accuracy, transport cost),
parts of a batch give the numbers of the whole. Recover cuts a unit by the same law (`ddbench.distillation.recover`), and training
a step of a network without BatchNorm (`ddbench.training.strategy`). How slots are grouped into units is part of a key, and the batch
that BatchNorm in training mode sees is part of its numbers: neither is ever changed here. Between one cut and another
numbers differ as between one number of threads and another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from ddbench.core.errors import DDBenchError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ddbench.config.experiment import Experiment

__all__ = ["OOMBatcher", "in_parts"]

T = TypeVar("T")

BATCHES = ("batch_size", "real_batch", "network_batch")
"""Settings by which methods and protocols say how many images are together."""
_SAID = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
# oneDNN's word on the CPU, and all of it. From then on it makes no new kernel in this process, memory or not.
_KERNEL = "could not create a primitive"

_listeners: list[Callable[[str], None]] = []


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is what a device, or the host, answers where there is no memory left."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if known or not isinstance(error, RuntimeError):
        return known
    return str(error) == _KERNEL or any(text in str(error) for text in _SAID)


class OOMBatcher:
    """How many of `what` are worked on at once: all, or half as many as often as memory runs out.

    What fitted is remembered for the next time.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._fits: int | None = None

    def __call__(self, attempt: Callable[[int], T], count: int) -> T:
        """`attempt(n)` with n = `count`, or fewer: it is called again with half of them where memory runs out.

        It must leave nothing behind where it fails. Raises what the device said where not even one fits.
        """
        while True:
            together = count if self._fits is None else min(self._fits, count)
            try:
                return attempt(together)
            except (RuntimeError, MemoryError) as error:
                if together <= 1 or not is_out_of_memory(error):
                    raise
            # Outside of the handler: its traceback holds the tensors that were in the way.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._fits = (together + 1) // 2
            for tell in _listeners[-1:]:
                tell(f"out of memory with {together} {self._what}: going on with {self._fits} at a time")


def in_parts(forward: Callable[[Tensor], Sequence[Tensor]], what: str) -> Callable[[Tensor], list[Tensor]]:
    """`forward`, with its batch cut where memory runs out, and what it gives joined again.

    `forward` takes a batch [B, ...] and gives tensors [B, ...] whose rows depend on the batch's same row alone: the
    parts' numbers are the whole's up to rounding. `what` names the batch's rows. Raises as `Together` does.
    """
    together = OOMBatcher(what)

    def cut(batch: Tensor) -> list[Tensor]:
        def attempt(size: int) -> list[Tensor]:
            found = [forward(part) for part in torch.split(batch, size)]
            return [torch.cat(column) for column in zip(*found, strict=True)]

        return together(attempt, max(1, len(batch)))

    return cut


@contextlib.contextmanager
def oom_errors(stage: str, experiment: Experiment, tell: Callable[[str], None]) -> Iterator[None]:
    """Around a stage: `tell` is told of every cut. Raises DDBenchError, one line, where no cut helps."""
    _listeners.append(tell)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise DDBenchError(f"out of memory in stage '{stage}': {_lighter(stage, experiment)} ({said[:200]})") from error
    finally:
        _listeners.pop()


def _lighter(stage: str, experiment: Experiment) -> str:
    """What a person can set so that a stage needs less."""
    sections: dict[str, tuple[str, BaseModel]] = {
        "teacher": ("teacher", experiment.teacher),
        "method": (experiment.method_name, experiment.method),
        "distill": (experiment.method_name, experiment.method),
        "labels": ("evaluator", experiment.evaluator),
        "evaluate": ("evaluator", experiment.evaluator),
    }
    other = "a smaller --image-size, or a device with more memory, is needed"
    if stage not in sections:
        return other
    name, settings = sections[stage]
    if stage == "evaluate" and not any(hasattr(settings, field) for field in BATCHES):
        name, settings = "teacher", experiment.teacher  # trained by the teacher's recipe
    found = [f"{name}.{field} (now {getattr(settings, field)})" for field in BATCHES if hasattr(settings, field)]
    if not found:
        return other
    return f"lower --set {' or '.join(found)}, which is another run with numbers of its own; or {other}"
