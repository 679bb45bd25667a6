"""Error messages and warnings that name the responsible plugin. Imports no torch."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from ddbench.core.errors import DDBenchError, PluginError, exception_line, message_line
from ddbench.core.interruption import RunInterrupt

STOP_REQUESTS = (KeyboardInterrupt, RunInterrupt)
"""Exceptions that end a run on request. They are never attributed to a plugin."""


@contextlib.contextmanager
def attribute_errors(describe: Callable[[], str]) -> Iterator[None]:
    """Converts every exception of the block, even SystemExit, to a PluginError that names the plugin.

    DDBenchError, stop requests such as Ctrl-C, and out-of-memory errors pass unchanged.

    Args:
        describe: Returns the description of the item whose code runs in the block, e.g. "method 'blur' of
            ddbench-blur". It is called only if the block raises.

    Raises:
        PluginError: If the block raises any other exception.

    Example:
        >>> with attribute_errors(lambda: "method 'blur' of ddbench-blur"):
        ...     1 / 0
        Traceback (most recent call last):
        ddbench.core.errors.PluginError: method 'blur' of ddbench-blur: ZeroDivisionError: division by zero
    """
    try:
        yield
    except (DDBenchError, GeneratorExit, *STOP_REQUESTS):
        raise
    except BaseException as error:
        if _is_out_of_memory(error):
            raise
        raise PluginError(f"{describe()}: {exception_line(error)}") from error


def print_warning(text: str) -> None:
    """Prints a warning in one line to stderr."""
    print(message_line(f"ddbench: warning: {text}"), file=sys.stderr)


def place_of(error: BaseException) -> str:
    """Returns the position in the code at which an exception was raised: `blur.py, line 12`.

    Args:
        error: The exception.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "no position"


def _is_out_of_memory(error: BaseException) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from ddbench.nn.memory import is_out_of_memory

    return is_out_of_memory(error)
