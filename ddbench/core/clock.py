"""A clock that does not count imports, so that the first use of a library does not count as work of a stage."""

from __future__ import annotations

import builtins
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

_import_seconds = 0.0
_running = False


def now() -> float:
    """Returns the seconds of a clock that stands still during imports in a `running` block."""
    return time.perf_counter() - _import_seconds


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Measures the import statements of this thread while the block runs, for `now`. Blocks can be nested.

    Example:
        >>> with running():
        ...     start = now()
        ...     import colorsys
        ...     bool(now() - start < 0.1)
        True
    """
    global _running
    if _running:
        yield
        return
    original, thread, importing = builtins.__import__, threading.get_ident(), False

    def measured_import(*args: Any, **kwargs: Any) -> Any:
        nonlocal importing
        global _import_seconds
        if importing or threading.get_ident() != thread:
            return original(*args, **kwargs)
        start, importing = time.perf_counter(), True
        try:
            return original(*args, **kwargs)
        finally:
            importing = False
            _import_seconds += time.perf_counter() - start

    _running = True
    builtins.__import__ = measured_import
    try:
        yield
    finally:
        builtins.__import__ = original
        _running = False
