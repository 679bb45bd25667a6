"""Imports the plugins of entry points so that a broken plugin cannot affect the others. Imports no torch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from typing import Any, TypeVar

from ddbench.registry.attribution import STOP_REQUESTS, exception_line, print_warning
from ddbench.registry.hooks import CORE

T = TypeVar("T")


def in_load_order(points: Iterable[metadata.EntryPoint]) -> list[metadata.EntryPoint]:
    """Sorts entry points: those of the core first, then by distribution and name."""
    return sorted(points, key=lambda point: (owner_of(point) != CORE, owner_of(point), point.name))


def owner_of(point: metadata.EntryPoint) -> str:
    """Returns the name of the distribution that declares an entry point."""
    return point.dist.name if point.dist is not None else "an unknown distribution"


def load(point: metadata.EntryPoint, inspect: Callable[[object], T]) -> T | None:
    """Imports the plugin of an entry point and inspects it.

    If the plugin raises anything, SystemExit too, a warning on stderr names its distribution. Output to stdout goes
    to stderr. If the import changes torch's default dtype, it is restored with a warning.

    Args:
        point: The entry point.
        inspect: Called with the imported plugin.

    Returns:
        What `inspect` returns, or None if the import or `inspect` raises.
    """
    plugin = f"plugin '{point.name}' of {owner_of(point)}"
    dtype = _default_dtype()
    result = None
    try:
        with contextlib.redirect_stdout(sys.stderr):
            result = inspect(point.load())
    except STOP_REQUESTS:
        raise
    except BaseException as error:
        print_warning(f"{plugin} is left out: {exception_line(error)}")
    torch = sys.modules.get("torch")
    if torch is not None and _default_dtype() is not (dtype or torch.float32):
        torch.set_default_dtype(dtype or torch.float32)
        print_warning(f"{plugin} changed torch's default dtype when it was imported: put back")
    return result


def _default_dtype() -> Any:
    """Torch's default dtype; None before torch is imported."""
    torch = sys.modules.get("torch")
    return torch and torch.get_default_dtype()
