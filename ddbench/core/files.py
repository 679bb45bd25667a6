"""Files that are there whole or not at all, whoever else writes them; and what a disk answers, in one line."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from safetensors import SafetensorError

from ddbench.core.errors import DDBenchError

SILENT = 86400.0
"""Seconds after which a half-written file that nothing was added to has no writer any more, on whatever host."""


write_hooks: dict[Path, Callable[[Path], contextlib.AbstractContextManager[None]]] = {}
"""What stands around the writing of a file, by the folder that it is below: it may publish what was written."""


@contextlib.contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """Turns what a disk can answer to a write below `path` into one clear DDBenchError line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        text = str(error)
        told = re.search(r"os error (\d+)", text)  # safetensors says it in words alone
        number = getattr(error, "errno", None) or (int(told[1]) if told else None)
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise DDBenchError(
                f"the disk is full: {path} could not be written; free some space, then run again"
            ) from error
        if number is not None:
            raise DDBenchError(f"cannot write to {path}: {os.strerror(number)}") from error
        if isinstance(error, OSError):
            raise DDBenchError(f"cannot write to {path}: {text}") from error
        raise


def _here() -> str:
    """Where a process number means something: 8 hexadecimal digits of the host and its space of such numbers."""
    space = 0
    with contextlib.suppress(OSError):  # containers on one host have each their own
        space = Path("/proc/self/ns/pid").stat().st_ino
    return hashlib.sha256(f"{os.uname().nodename} {space}".encode()).hexdigest()[:8]


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Where to write a file, or make a folder, that becomes `path` when the block ends and is gone where it fails.

    It stands alone in a folder beside `path`, so that what a library writes beside it is gone as well; no other writer
    of `path`, on whatever host, has the same. What killed ones left is removed. Makes the parent folder. Raises
    DDBenchError as `writing` does, and what stands `write_hooks` of its folder.
    """
    room = path.with_name(f".{path.name}.{_here()}-{os.getpid()}-{secrets.token_hex(4)}.partial")
    partial = room / path.name
    with contextlib.ExitStack() as stack:
        for folder in path.parents:
            if folder in write_hooks:
                stack.enter_context(write_hooks[folder](path))
        stack.enter_context(translate_os_errors(path))
        try:
            room.mkdir(parents=True)
            sweep(path)
            yield partial
            if partial.is_file():
                partial.chmod(room.stat().st_mode & 0o666)  # as any new file: safetensors gives its owner's alone
                with partial.open("rb") as handle:
                    os.fsync(handle.fileno())
            partial.replace(path)
        finally:
            shutil.rmtree(room, ignore_errors=True)


def abandoned(room: Path) -> bool:
    """Whether nobody writes in the folder of a half-written file any more: its writer is dead, or silent for so long.

    Of another host's processes nothing else is known.
    """
    writer = re.search(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.partial$", room.name)
    if writer and writer[1] == _here() and not psutil.pid_exists(int(writer[2])):
        return True
    try:
        return time.time() - max(found.stat().st_mtime for found in (room, *room.rglob("*"))) > SILENT
    except OSError:
        return False


def sweep(path: Path) -> None:
    """Removes what killed writers of `path` left half-written."""
    for room in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        if abandoned(room):
            shutil.rmtree(room, ignore_errors=True)
