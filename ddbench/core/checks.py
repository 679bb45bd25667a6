"""Checks tensors for NaN and infinity before they are saved or returned, and the types of arguments."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ddbench.core.errors import DDBenchError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["require_finite", "require_type"]

FOLDER = (str, os.PathLike)
"""Types of an argument that is a folder."""


def require_finite(where: str, tensors: Mapping[str, Tensor], hint: str = "") -> None:
    """Raises an error if a tensor holds NaN or infinity.

    Call it with the whole state of a loop, before each checkpoint and after the last step. A check of the loss is not
    enough: the loss is computed before the step, and an optimiser can break values that the loss does not depend on (a
    second moment that overflows, a pixel that is clamped). The call synchronises with the device, one tensor at a time.

    Args:
        where: The place in the run, e.g. `training, after epoch 3`. It begins the error message.
        tensors: The tensors to check, by name.
        hint: Text that ends the error message, e.g. `; a lower method.learning_rate may help`.

    Raises:
        DDBenchError: A tensor is not finite. The message names up to three of them.

    Example:
        >>> import torch
        >>> require_finite("step 3", {"images": torch.zeros(2)})
        >>> require_finite("step 3", {"images": torch.tensor([0.0, float("nan")])})
        Traceback (most recent call last):
            ...
        ddbench.core.errors.DDBenchError: step 3: not finite (NaN or infinity): images
    """
    wrong = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DDBenchError(f"{where}: not finite (NaN or infinity): {', '.join(wrong[:3])}{more}{hint}")


def require_type(function: str, name: str, value: object, types: type | tuple[type, ...], expected: str) -> None:
    """Raises an error if an argument of a public function has another type. True and False are no numbers.

    Args:
        function: Name of the function.
        name: Name of the argument.
        value: Its value.
        types: The types that it may have.
        expected: What the user should pass, in words.

    Raises:
        TypeError: The type is another one.

    Example:
        >>> require_type("load", "ipcs", (1, 10), tuple, "a tuple of numbers, e.g. (1, 10)")
        >>> require_type("load", "ipcs", 1, tuple, "a tuple of numbers, e.g. (1, 10)")
        Traceback (most recent call last):
            ...
        TypeError: load: ipcs is 1 (int); pass a tuple of numbers, e.g. (1, 10)
    """
    if not isinstance(value, types) or (isinstance(value, bool) and types is int):
        raise TypeError(f"{function}: {name} is {reprlib.repr(value)} ({type(value).__name__}); pass {expected}")
