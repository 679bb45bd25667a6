"""Imports the plugins of entry points so that a broken plugin cannot affect the others. Imports no torch."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from ddbench.core.errors import exception_line
from ddbench.registry.attribution import STOP_REQUESTS, print_warning
from ddbench.registry.hooks import CORE

T = TypeVar("T")


def in_load_order(points: Iterable[metadata.EntryPoint]) -> list[metadata.EntryPoint]:
    """Sorts entry points: those of the core first, then by distribution and name."""
    return sorted(points, key=lambda point: ((owner := owner_of(point)) != CORE, owner, point.name))


def owner_of(point: metadata.EntryPoint) -> str:
    """Returns the name of the distribution that declares an entry point."""
    return point.dist.name if point.dist is not None else "an unknown distribution"


def load(point: metadata.EntryPoint, inspect: Callable[[object], T]) -> T | None:
    """Imports the plugin of an entry point and inspects it.

    If the plugin raises an exception, even SystemExit, a warning on stderr names its distribution. Output to stdout is
    redirected to stderr. If the import changes global state of torch, NumPy or Python (default types, threads, kernels,
    random generators, the working directory), the state is restored and a warning is printed.

    Args:
        point: The entry point.
        inspect: Called with the imported plugin.

    Returns:
        The result of `inspect`, or None if the import or `inspect` raises.
    """
    plugin = f"plugin '{point.name}' of {owner_of(point)}"
    result = None
    try:
        with _restored_state(plugin, point), contextlib.redirect_stdout(sys.stderr):
            result = inspect(point.load())
    except STOP_REQUESTS:
        raise
    except BaseException as error:
        print_warning(f"{plugin} is left out: {exception_line(error)}")
    return result


@contextlib.contextmanager
def _restored_state(plugin: str, point: metadata.EntryPoint) -> Iterator[None]:
    """Restores the global state after an import that can change it: one with torch."""
    if owner_of(point) == CORE or not ("torch" in sys.modules or _imports_torch(point)):
        yield
        return
    import torch

    from ddbench.nn.global_state import restore_global_state

    def report(changed: list[str], printed: bool) -> None:
        if changed:
            print_warning(f"{plugin} changed {', '.join(changed)} when it was imported: restored")

    with restore_global_state(torch.device("cpu"), report):
        yield


def _imports_torch(point: metadata.EntryPoint) -> bool:
    """Whether the entry module imports torch at module level. The conformance kit forbids it: it slows every start."""
    try:
        spec = importlib.util.find_spec(point.module)
        code = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
    except (ImportError, OSError, ValueError):
        return False
    return re.search(r"^(import|from) torch\b", code, re.MULTILINE) is not None
