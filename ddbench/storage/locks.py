"""Locks between the processes of a host: who comes second waits, and says so."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ddbench.core import interruption
from ddbench.core.files import translate_os_errors

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What a file system answers that has no locks, e.g. a Lustre that is mounted without flock."""


class Locks:
    """Locks by name in the folder `root`/locks. `warn` is told who is waited for, and where there are no locks.

    They save work, and nothing else depends on them: they may reach no further than this host, or not hold at all.
    The kernel lets go of a killed process's lock.
    """

    def __init__(self, root: Path, warn: Callable[[str], None]) -> None:
        self._root, self._warn = root, warn
        self._hold = True

    @contextlib.contextmanager
    def holding(self, name: str, what: str) -> Iterator[None]:
        """Keeps other processes from what has this name; `what` is made there, in words."""
        lock = FileLock(self._root / "locks" / f"{name}.lock", fallback_to_soft=False)
        with translate_os_errors(self._root):
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            self._acquire(lock, what)
        try:
            yield
        finally:
            lock.release()

    def _acquire(self, lock: FileLock, what: str) -> None:
        told = False
        while not lock.is_locked:
            try:
                lock.acquire(timeout=0.05 if told else 0)
            except Timeout:
                if not told:
                    self._warn(f"waiting for another process that makes this {what}")
                told = True
                interruption.raise_if_requested()
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                if self._hold:
                    self._warn(f"no locks in {self._root} ({error.strerror}): processes may compute the same twice")
                self._hold = False
                return
