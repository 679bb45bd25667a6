"""A folder on shared storage (any fsspec URL) and its local copy: files come and go whole, failures are waited out."""

from __future__ import annotations

import contextlib
import errno
import posixpath
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote

from ddbench.core import interruption
from ddbench.core.errors import DDBenchError
from ddbench.core.files import ABANDONED_AFTER, atomic_write, translate_os_errors

ATOMIC_UPLOADS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss"})
"""Protocols where an upload is seen when it is complete, no part of it before; elsewhere: written beside and moved."""
RETRY_SECONDS = 300.0
"""Seconds that a storage which fails is asked again."""
WARN_AFTER = 3.0
"""Seconds of failing after which a person is told."""
_PART = r"\.?[A-Za-z0-9_][A-Za-z0-9_.+=,@-]*"
_PLAIN = re.compile(rf"{_PART}(/{_PART})*")
"""Names that are files below a folder, on every file system: others in a listing are nobody's of ours."""

Answer = TypeVar("Answer")


class _NothingCame(Exception):
    """Ends the writing of a file that there is nothing to write to."""


class StorageError(DDBenchError):
    """What a storage does not do, in a line."""


class ListedFile(NamedTuple):
    """One file of a listing: its name below the folder, size in bytes, and when it was written (seconds since 1970)."""

    name: str
    bytes: int
    modified: float


class RemoteFolder:
    """The files below `url`, by names such as `teacher/KEY.safetensors`, and the folder `copy` of those that are here.

    What cannot be published at once is remembered beside them. `warn` is told where the storage fails and is asked
    again. Raises DDBenchError: for a URL that cannot be used, without the right to do what is asked, and where the
    storage fails for longer than PATIENCE. Which credentials and endpoint are used, fsspec's configuration says.
    """

    def __init__(self, url: str, copy: Path, warn: Callable[[str], None] | None = None) -> None:
        from fsspec.core import url_to_fs

        self.url = url
        self._shown = re.sub(r"//[^/]*@", "//", url)  # never a password
        self.copy = copy
        self._warn = warn or (lambda text: None)
        self._failed = False
        protocol = url.partition("://")[0]
        if protocol in ("memory", "http", "https"):
            raise DDBenchError(f"{self}: artifacts cannot be shared there; give a folder, or s3://, gs://, sftp:// ...")
        try:
            self._fs, root = url_to_fs(url)
        except ImportError as error:
            install = "pip install 'ddbench[s3]'" if protocol in ("s3", "s3a") else str(error)
            raise DDBenchError(f"{self}: {protocol}:// needs one more package: {install}") from error
        except (ValueError, OSError) as error:
            raise DDBenchError(f"{self} is no URL that fsspec can use: {error}") from error
        self._root = str(root).rstrip("/")
        self._whole = protocol in ATOMIC_UPLOADS
        if not self._root:
            raise DDBenchError(f"{self} names no folder: give one, e.g. s3://BUCKET/FOLDER")

    def __str__(self) -> str:
        return self._shown

    def here(self, name: str) -> Path:
        """Where the local copy of a file stands, or would stand. Raises DDBenchError for a name that is none."""
        if not _PLAIN.fullmatch(name):
            raise DDBenchError(f"{self}: '{name}' is no name of a file there")
        return self.copy / name

    def fetch(self, name: str, sound: Callable[[Path], bool] = Path.exists) -> bool:
        """Copies a file here, whole or not at all; False where it is not there, or where what came is not `sound`."""
        try:
            with atomic_write(self.here(name)) as partial:
                try:
                    self._ask(lambda: self._fs.get_file(self._there(name), str(partial)))
                except FileNotFoundError as error:
                    raise _NothingCame from error
                if not sound(partial):
                    raise _NothingCame
        except _NothingCame:
            return False
        return True

    def publish(self, name: str) -> None:
        """Puts the local copy of a file there, whole or not at all; where that fails it is `unpublished`."""
        path, there = self.here(name), self._there(name)
        with self.publishing(name):
            try:
                self._ask(lambda: self._put(path, there))
            except OSError as error:
                raise StorageError(f"cannot write to {self}: {error}") from error

    @contextlib.contextmanager
    def publishing(self, name: str) -> Iterator[None]:
        """Remembers a file as unpublished while the block runs, and after it where it fails or is killed.

        Where the storage fails the DDBenchError says how to go on.
        """
        mark = self.copy / "unpublished" / quote(name, safe="")
        with translate_os_errors(mark):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        try:
            yield
        except StorageError as error:
            kept = f"what was made is kept in {self.copy} and published by the next run: give the same command again"
            raise DDBenchError(f"{error}; {kept}") from error
        mark.unlink(missing_ok=True)

    def unpublished(self) -> list[str]:
        """Names of the files here that are still to be published."""
        found = [unquote(mark.name) for mark in sorted((self.copy / "unpublished").glob("*"))]
        return [name for name in found if _PLAIN.fullmatch(name)]

    def is_unpublished(self, name: str) -> bool:
        """Whether the file here is still to be published: then it counts, not the one there."""
        return (self.copy / "unpublished" / quote(name, safe="")).exists() and self.here(name).exists()

    def beginning(self, name: str, size: int) -> bytes | None:
        """The first `size` bytes of a file there, or None where it is not there."""

        def start() -> bytes:
            try:
                return bytes(self._fs.cat_file(self._there(name), start=0, end=size))
            except OSError as error:
                if error.errno == errno.EINVAL:  # S3: an empty file has no first bytes
                    return b""
                raise

        try:
            return self._ask(start)
        except FileNotFoundError:
            return None

    def list(self, under: str = "") -> list[ListedFile]:
        """Lists the shared files below the folder `under` (default: all) by name; only names that ddbench writes."""
        try:
            found = self._ask(lambda: self._fs.find(self._there(under) if under else self._root, detail=True))
        except FileNotFoundError:
            return []
        listed = []
        for path, facts in sorted(found.items()):
            name = str(path).removeprefix(f"{self._root}/")
            if _PLAIN.fullmatch(name) and name.startswith(f"{under}/" if under else ""):
                listed.append(ListedFile(name, int(facts.get("size") or 0), _modified(facts)))
        return listed

    def remove(self, name: str) -> None:
        """Removes a file there and here."""
        with contextlib.suppress(FileNotFoundError):
            self._ask(lambda: self._fs.rm_file(self._there(name)))
        with translate_os_errors(self.copy):
            self.here(name).unlink(missing_ok=True)

    def _there(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _put(self, path: Path, there: str) -> None:
        if self._whole:
            self._fs.put_file(str(path), there)
            return
        folder, name = posixpath.split(there)
        beside = f"{folder}/.{name}.{secrets.token_hex(4)}.partial"
        self._fs.makedirs(folder, exist_ok=True)
        self._fs.put_file(str(path), beside)
        self._fs.mv(beside, there)

    def _ask(self, ask: Callable[[], Answer]) -> Answer:
        """What the storage answers, asked again while it fails. FileNotFoundError is an answer.

        Where it failed for too long it is not waited for a second time before it has answered.
        """
        begun, pause, told = time.monotonic(), 0.5, False
        while True:
            try:
                self._fs.invalidate_cache()  # other hosts write too
                answer = ask()
            except FileNotFoundError:
                self._answered(told)
                raise
            except Exception as error:  # every kind of storage has its own
                self._give_up(error)
                waited = time.monotonic() - begun
                if self._failed or waited + pause > RETRY_SECONDS:
                    self._failed = True
                    raise StorageError(f"{self} fails, asked for {waited:.0f} s: {_reason(error)}") from error
                if not told and waited + pause > WARN_AFTER:
                    self._warn(f"{self} fails ({_reason(error)}); asking again for {RETRY_SECONDS / 60:.0f} minutes")
                    told = True
            else:
                self._answered(told)
                return answer
            interruption.raise_if_requested()
            time.sleep(pause)
            pause = min(2 * pause, 15.0)

    def _answered(self, told: bool) -> None:
        self._failed = False
        if told:
            self._warn(f"{self} answers again")

    def _give_up(self, error: Exception) -> None:
        """Raises DDBenchError for what will not be another answer later."""
        if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
            raise StorageError(f"{self}: no right to do that: {_reason(error)}") from error
        if isinstance(error, NotImplementedError) or "Validation" in type(error).__name__:
            raise StorageError(f"{self} cannot be used: {_reason(error)}") from error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise error


def is_abandoned_upload(listed: ListedFile) -> bool:
    """Whether it is what a writer left that was killed before it could move it to its place."""
    return listed.name.endswith(".partial") and time.time() - listed.modified > ABANDONED_AFTER


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _modified(facts: dict[str, Any]) -> float:
    """Each kind of storage calls it otherwise; 0 where it does not say."""
    told = next((facts[name] for name in ("LastModified", "mtime", "last_modified", "updated") if facts.get(name)), 0)
    if isinstance(told, str):
        from datetime import datetime

        told = datetime.fromisoformat(told)
    return float(told.timestamp() if hasattr(told, "timestamp") else told)
