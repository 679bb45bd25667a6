"""Tracebacks of plugin code are kept in a file that the message names."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddbench.core.errors import DDBenchError, PluginError
from ddbench.results.failures import traceback_kept, write_traceback


def fault() -> KeyError:
    """An error that was raised."""
    try:
        raise KeyError("no such thing")
    except KeyError as error:
        return error


def test_the_message_names_the_file_that_holds_the_traceback(tmp_path: Path) -> None:
    cause = fault()
    with pytest.raises(PluginError) as caught, traceback_kept("table 'a/../b'", tmp_path):
        raise PluginError("table 'b' failed") from cause
    path = tmp_path / "failures" / "table_a_b_.txt"
    assert str(caught.value) == f"table 'b' failed (traceback: {path})"
    assert caught.value.__cause__ is cause
    text = path.read_text(encoding="utf-8")
    assert text.startswith("Traceback ")
    assert 'raise KeyError("no such thing")' in text
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_other_errors_and_success_leave_no_file(tmp_path: Path) -> None:
    with traceback_kept("a", tmp_path):
        pass
    with pytest.raises(DDBenchError, match=r"^wrong$"), traceback_kept("a", tmp_path):
        raise DDBenchError("wrong")
    assert list(tmp_path.iterdir()) == []


def test_a_name_of_any_length_is_a_file_name(tmp_path: Path) -> None:
    assert write_traceback("x" * 1000, fault(), tmp_path) == f"traceback: {tmp_path / 'failures' / ('x' * 100)}.txt"


def test_where_it_cannot_be_written_the_message_says_why(tmp_path: Path) -> None:
    (tmp_path / "failures").write_text("a file")
    with pytest.raises(PluginError, match=r"^failed \(no traceback: .*failures"), traceback_kept("a", tmp_path):
        raise PluginError("failed") from fault()
