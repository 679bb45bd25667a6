"""Locks between the processes of one host."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ddbench.core import interruption
from ddbench.core.files import translate_os_errors

UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""Error numbers of file systems without locks, e.g. Lustre mounted without `flock`."""


class Locks:
    """Named locks in the folder `ROOT/locks`.

    They only avoid duplicate work. No result depends on them: they may have no effect between hosts, and some file
    systems do not support locks. The kernel releases the locks of a killed process.

    Args:
        root: The folder.
        warn: Called with a message while the process waits, and once if there are no locks.
    """

    def __init__(self, root: Path, warn: Callable[[str], None]) -> None:
        self._root, self._warn = root, warn
        self._supported = True

    @contextlib.contextmanager
    def hold(self, name: str, description: str) -> Iterator[None]:
        """Context manager that holds a lock. It waits for another holder; a requested stop ends the wait.

        Args:
            name: Name of the lock.
            description: What the holder builds, for the message, e.g. `teacher artifact`.

        Raises:
            DDBenchError: The lock file cannot be written.
            Stopped: A stop was requested during the wait.
        """
        # Everyone who may write in the folder may take the lock, whichever user made the file.
        lock = FileLock(self._root / "locks" / f"{name}.lock", mode=0o666, fallback_to_soft=False)
        with translate_os_errors(self._root):
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            self._acquire(lock, description)
        try:
            yield
        finally:
            lock.release()

    def _acquire(self, lock: FileLock, description: str) -> None:
        warned = False
        while not lock.is_locked:
            try:
                lock.acquire(timeout=0.05 if warned else 0)
            except Timeout:
                if not warned:
                    self._warn(f"waiting for another process that builds this {description}")
                warned = True
                interruption.raise_if_requested()
            except OSError as error:
                is_foreign = error.errno in (errno.EACCES, errno.EPERM) and Path(lock.lock_file).exists()
                if error.errno not in UNSUPPORTED and not is_foreign:
                    raise
                if self._supported:
                    where = lock.lock_file if is_foreign else self._root
                    self._warn(f"no locks: {where}: {error.strerror}: processes may compute the same twice")
                self._supported = False
                return

    def prune(self, stages: frozenset[str], older_than: float) -> None:
        """Deletes the files of old locks that nobody holds.

        Args:
            stages: Stages whose locks are deleted. Empty: all.
            older_than: Smallest age in seconds.
        """
        for path in (self._root / "locks").glob("*.lock"):
            stage = path.stem.rpartition("-")[0]
            if stages and stage not in stages:
                continue
            with contextlib.suppress(OSError, Timeout):  # held, or of another user
                if time.time() - path.stat().st_mtime >= older_than:
                    with FileLock(path, timeout=0, mode=0o666, fallback_to_soft=False):
                        path.unlink(missing_ok=True)
