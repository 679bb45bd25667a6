"""Keeps the tracebacks of failed plugin code in the results folder."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

from ddbench.core.errors import DDBenchError, PluginError
from ddbench.core.files import atomic_write


def write_traceback(name: str, error: BaseException | None, results_dir: Path) -> str:
    """Writes a traceback to a file.

    Args:
        name: What failed; the file is named after it.
        error: The exception.
        results_dir: Folder of the results.

    Returns:
        The end of a message: where the traceback is, or why it could not be written.
    """
    path = results_dir / "failures" / f"{re.sub(r'[^A-Za-z0-9-]+', '_', name)[:100]}.txt"
    try:
        with atomic_write(path) as partial:
            partial.write_text("".join(traceback.format_exception(error)), encoding="utf-8", errors="replace")
    except DDBenchError as write_error:  # a failure to write the traceback must not hide the original error
        return f"no traceback: {write_error}"
    return f"traceback: {path}"


@contextlib.contextmanager
def traceback_kept(name: str, results_dir: Path) -> Iterator[None]:
    """Writes the traceback of a PluginError of the block to a file, and names the file in the message.

    Args:
        name: What runs in the block; the file is named after it.
        results_dir: Folder of the results.

    Raises:
        PluginError: If the block raises one.
    """
    try:
        yield
    except PluginError as error:
        where = write_traceback(name, error.__cause__, results_dir)
        raise PluginError(f"{error} ({where})") from error.__cause__
