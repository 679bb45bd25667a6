"""Locks between processes: exclusive, released, and optional."""

import errno
import os
from pathlib import Path
from unittest import mock

import pytest
from filelock import FileLock

from ddbench.core.errors import DDBenchError
from ddbench.storage.locks import UNSUPPORTED, Locks


def test_a_lock_is_exclusive_while_it_is_held(tmp_path: Path) -> None:
    locks = Locks(tmp_path, pytest.fail)
    other = FileLock(tmp_path / "locks" / "a.lock", timeout=0)
    with locks.hold("a", "teacher artifact"), locks.hold("b", "teacher artifact"), pytest.raises(TimeoutError):
        other.acquire()
    with other:
        pass


def test_who_waits_says_so_once_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    other = FileLock(tmp_path / "locks" / "a.lock")
    other.acquire()
    warnings: list[str] = []

    def release(text: str) -> None:
        warnings.append(text)
        other.release()

    with Locks(tmp_path, release).hold("a", "teacher artifact"):
        assert warnings == ["waiting for another process that makes this teacher artifact"]


@pytest.mark.parametrize("number", UNSUPPORTED)
def test_a_file_system_without_locks_is_named_once(tmp_path: Path, number: int) -> None:
    warnings: list[str] = []
    locks = Locks(tmp_path, warnings.append)
    with mock.patch.object(FileLock, "acquire", side_effect=OSError(number, os.strerror(number))):
        for _ in range(2):
            with locks.hold("a", "teacher artifact"):
                pass
    (warning,) = warnings
    assert os.strerror(number) in warning


def test_another_error_of_the_lock_is_an_error(tmp_path: Path) -> None:
    failing = mock.patch.object(FileLock, "acquire", side_effect=OSError(errno.EACCES, "Permission denied"))
    with failing, pytest.raises(DDBenchError, match="Permission denied"), Locks(tmp_path, pytest.fail).hold("a", "x"):
        pytest.fail("held")
