"""NaN and infinity: what a loop saves or hands on is looked at first, and never written where it is not finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ddbench.core.errors import DDBenchError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["require_finite"]


def require_finite(where: str, tensors: Mapping[str, Tensor], hint: str = "") -> None:
    """Raises DDBenchError where one of `tensors` holds NaN or infinity: `where` it is, which ones, and the `hint`.

    For the whole state of a loop, before it is saved and at the loop's end: a loss is of the images or weights before
    a step, and an optimiser can break what the loss cannot see (a second moment that overflows, a value that is
    clamped). Waits for the device, a tensor at a time.
    """
    wrong = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DDBenchError(f"{where}: not finite (NaN or infinity): {', '.join(wrong[:3])}{more}{hint}")
