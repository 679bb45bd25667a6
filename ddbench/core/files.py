"""Atomic files: a write either completes or leaves the old file, also with concurrent writers and killed processes."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import platform
import re
import secrets
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from safetensors import SafetensorError

from ddbench.core.canonical import key_of
from ddbench.core.errors import DDBenchError
from ddbench.core.text import path_text

ABANDONED_AFTER = 86400.0
"""Seconds without a change after which a partial file counts as abandoned, whichever host wrote it."""

DISK_FAULTS = (errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ESTALE)
"""Error numbers that concern a disk or a folder rather than one file."""

write_hooks: dict[Path, Callable[[Path], contextlib.AbstractContextManager[None]]] = {}
"""Context managers by folder. `atomic_write(path)` enters those of all parent folders of `path` and leaves them after
the file is complete. `ddbench.storage.remote_results` uses one to upload every file below the results folder."""


@contextlib.contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """Context manager that turns I/O errors of its block into a one-line DDBenchError.

    Args:
        path: The file or folder that the block writes to, for the message.

    Raises:
        DDBenchError: The block raised an OSError, or a SafetensorError with the number of an operating-system error.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        text = str(error)
        os_error = re.search(r"os error (\d+)", text)  # safetensors gives the error number only in the text
        number = getattr(error, "errno", None) or (int(os_error[1]) if os_error else None)
        if number in (errno.ENOSPC, errno.EDQUOT):
            text = f"the disk is full: {path} could not be written; free some space, then run again"
            raise DDBenchError(text, cause="the disk is full") from error
        if number is not None:
            reason = os.strerror(number)
            cause = reason if number in DISK_FAULTS else ""
            raise DDBenchError(f"cannot write to {path}: {reason}", cause) from error
        if isinstance(error, OSError):
            raise DDBenchError(f"cannot write to {path}: {text}") from error
        raise


def expand_user(path: Path) -> Path:
    """Replaces `~` and `~user` by the home directory. The path of an unknown user is returned unchanged."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def user_cache_dir() -> Path:
    """Returns this user's folder for artifacts and downloads: `ddbench` in `XDG_CACHE_HOME`, else in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ddbench"


def _process_namespace() -> str:
    """8 hexadecimal digits that identify the host and PID namespace in which this process's number is valid."""
    namespace = 0
    with contextlib.suppress(OSError):  # each container of a host has a namespace
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Context manager that creates or replaces a file or folder atomically.

    The block writes to a temporary path in a new folder beside `path`, which no other writer shares. When the block
    ends, the temporary file or folder is renamed to `path`. If the block raises, the temporary folder is deleted,
    including any file that a library wrote beside the temporary path, and `path` stays as it was. Missing parent
    folders are created. Leftovers of killed writers of `path` are removed. `write_hooks` run around the write.

    Args:
        path: The file or folder to create or replace.

    Yields:
        The path to write to. Its name equals that of `path`.

    Raises:
        DDBenchError: The disk is full or the path cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_write(Path(folder, "runs", "a.txt")) as partial:
        ...         _ = partial.write_text("complete")
        ...     Path(folder, "runs", "a.txt").read_text()
        'complete'
    """
    name = f".{path.name}.{_process_namespace()}-{os.getpid()}-{secrets.token_hex(4)}.partial"
    partial_folder = path.with_name(name)
    partial = partial_folder / path.name
    with contextlib.ExitStack() as stack:
        for folder in path.parents:
            if folder in write_hooks:
                stack.enter_context(write_hooks[folder](path))
        stack.enter_context(translate_os_errors(path))
        try:
            partial_folder.mkdir(parents=True)
            remove_abandoned(path)
            yield partial
            for file in partial_folder.rglob("*"):
                if file.is_file() and not file.is_symlink():
                    # safetensors creates files with mode 0600. Use the mode that the umask gives to new files.
                    file.chmod(partial_folder.stat().st_mode & 0o666)
            if partial.is_file():
                with partial.open("rb") as handle:
                    os.fsync(handle.fileno())
            partial.replace(path)
        finally:
            shutil.rmtree(partial_folder, ignore_errors=True)


def is_abandoned(partial_folder: Path) -> bool:
    """Tests whether the temporary folder of an `atomic_write` has no writer any more.

    This is so if its writer was a process of this host that no longer runs, or if nothing in the folder changed for
    `ABANDONED_AFTER` seconds. For a writer on another host only the second rule applies.

    Args:
        partial_folder: A folder whose name ends with `.partial`.

    Returns:
        Whether the folder can be removed.
    """
    writer = re.search(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.partial$", partial_folder.name)
    if writer and writer[1] == _process_namespace() and not psutil.pid_exists(int(writer[2])):
        return True
    try:
        changed = max(path.stat().st_mtime for path in (partial_folder, *partial_folder.rglob("*")))
        return time.time() - changed > ABANDONED_AFTER
    except OSError:
        return False


def remove_abandoned(path: Path) -> None:
    """Removes the temporary folders that killed writers of a file left beside it.

    Args:
        path: The file, which need not exist.
    """
    for partial_folder in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        if is_abandoned(partial_folder):
            shutil.rmtree(partial_folder, ignore_errors=True)


def require_utf8(path: Path, kind: str) -> None:
    """Refuses a path that is not UTF-8: records, previews, exports and artifacts could not hold or use it.

    Args:
        path: A file or folder.
        kind: What it is, for the message.

    Raises:
        DDBenchError: The path is not UTF-8. The message has the command that renames its first such part.
    """
    for part in (*reversed(path.parents), path):
        try:
            part.name.encode("utf-8")
        except UnicodeEncodeError as error:
            raw = os.fsencode(part.name)
            old = "".join(chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in raw)
            parent = shlex.quote(path_text(part.parent))
            raise DDBenchError(
                f"the {kind} {path_text(path)} has a name that is not UTF-8; rename it: (cd {parent} && mv -- "
                f"$'{old}' {shlex.quote(raw.decode('latin-1'))}), or all at once: convmv -r -f latin1 -t utf8 "
                f"--notest {parent}"
            ) from error


def refuse_url(path: Path, kind: str) -> None:
    """Refuses a URL that was given where a file or folder of this machine is needed.

    Args:
        path: The text of a user as a path, in which a URL has one of its slashes.
        kind: What it is, for the message.

    Raises:
        DDBenchError: There is no such path, and it is a URL.

    Example:
        >>> refuse_url(Path("https://a.b/c.pth"), "checkpoint")
        Traceback (most recent call last):
            ...
        ddbench.core.errors.DDBenchError: checkpoint 'https://a.b/c.pth' is a URL, not a path: download it first
    """
    url = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", str(path))
    if url is not None and not path.exists():
        raise DDBenchError(f"{kind} '{url[1]}://{url[2]}' is a URL, not a path: download it first")


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file's content. Raises DDBenchError if it cannot be read."""
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise DDBenchError(f"{path} cannot be read: {error.strerror}") from error


def name_in_keys(path: Path) -> str:
    """Returns what cache keys contain for a path among the settings: the digest of its content, else its name.

    Raises:
        DDBenchError: A file cannot be read.
    """
    return content_digest(path) or path.name


def content_digest(path: Path) -> str | None:
    """Returns a digest of the content of a file, or of the names and contents of the files in a folder.

    It does not depend on the place of the file or folder. None: there is neither.

    Raises:
        DDBenchError: A file cannot be read.
    """
    if path.is_file():
        return file_digest(path)
    if path.is_dir():
        files = (file for file in path.rglob("*") if file.is_file())
        return key_of({str(file.relative_to(path)): file_digest(file) for file in files})
    return None
