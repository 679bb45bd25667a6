"""Locks between processes: exclusive, released, and optional."""

import errno
import os
from pathlib import Path
from unittest import mock

import pytest
from filelock import FileLock

from ddbench.core.errors import DDBenchError
from ddbench.storage.cache import Cache
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
        assert warnings == ["waiting for another process that builds this teacher artifact"]


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


def test_other_users_may_take_a_lock_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with Locks(tmp_path, pytest.fail).hold("a", "teacher artifact"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "locks" / "a.lock").stat().st_mode & 0o777 == 0o666


def test_a_lock_file_that_may_not_be_opened_does_not_block(tmp_path: Path) -> None:
    """As earlier versions left them: writable for their owner alone."""
    warnings: list[str] = []
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "a.lock").touch()
    refused = mock.patch.object(FileLock, "acquire", side_effect=PermissionError(errno.EACCES, "Permission denied"))
    with refused, Locks(tmp_path, warnings.append).hold("a", "teacher artifact"):
        pass
    (warning,) = warnings
    assert "a.lock: Permission denied" in warning


def test_prune_deletes_locks_that_nobody_holds(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    made = [cache.get(stage, {}, lambda checkpoint: ({}, {})) for stage in ("teacher", "distill", "evaluate")]
    teacher, distill, evaluate = (tmp_path / "locks" / f"{each.stage}-{each.key}.lock" for each in made)
    os.utime(evaluate, (0, 0))
    with FileLock(distill):
        cache.prune(frozenset(), older_than=3600)
        assert [path.exists() for path in (teacher, distill, evaluate)] == [True, True, False]
        cache.prune(frozenset({"teacher", "distill"}), older_than=0)
        assert [path.exists() for path in (teacher, distill)] == [False, True]
    cache.prune(frozenset(), older_than=0)
    assert not list((tmp_path / "locks").iterdir())


def test_another_error_of_the_lock_is_an_error(tmp_path: Path) -> None:
    failing = mock.patch.object(FileLock, "acquire", side_effect=OSError(errno.EACCES, "Permission denied"))
    with failing, pytest.raises(DDBenchError, match="Permission denied"), Locks(tmp_path, pytest.fail).hold("a", "x"):
        pytest.fail("held")
