"""A folder on shared storage (any fsspec URL) with a local copy: atomic uploads and downloads with retries."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import posixpath
import re
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote

from ddbench.core import interruption
from ddbench.core.errors import DDBenchError, exception_line
from ddbench.core.files import ABANDONED_AFTER, atomic_write, translate_os_errors, user_cache_dir

PENDING = "unpublished"
"""Folder in a local copy with one empty file per pending upload."""
ATOMIC_UPLOADS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss"})
"""Protocols whose uploads become visible only when they are complete. For others, a partial file is renamed."""
RETRY_SECONDS = 300.0
"""Seconds for which a failing request is repeated."""
WARN_AFTER = 3.0
"""Seconds of failing requests after which a warning is printed."""
_PART = r"\.?[A-Za-z0-9_][A-Za-z0-9_.+=,@-]*"
_SAFE_NAME = re.compile(rf"{_PART}(/{_PART})*")
"""Names that stay below the folder on every file system. ddbench writes no others; a listing can contain any."""

Response = TypeVar("Response")


class _NotDownloaded(Exception):
    """Ends an atomic write without a file."""


class StorageError(DDBenchError):
    """A request to the storage failed and is not repeated any more."""


class ListedFile(NamedTuple):
    """One file of a listing.

    Attributes:
        name: Path relative to the folder.
        bytes: Size.
        modified: Time of the last change, seconds since 1970. 0: unknown.
    """

    name: str
    bytes: int
    modified: float


def is_url(location: str | Path) -> bool:
    """Tests whether a location is the URL of shared storage rather than a local folder.

    Args:
        location: The value of `--cache-dir` or `--results-dir`.

    Example:
        >>> is_url("s3://bucket/cache"), is_url("runs")
        (True, False)
    """
    return isinstance(location, str) and "://" in location


def local_copies() -> Path:
    """Returns this user's folder of the local copies of shared storage."""
    return user_cache_dir() / "shared"


def local_copy(url: str, content: str) -> Path:
    """Returns the folder of this machine for the local copy of a URL. It does not depend on the password in the URL.

    A copy can be deleted if nothing runs and it has no pending uploads.

    Args:
        url: The URL.
        content: `cache` or `results`.
    """
    return local_copies() / hashlib.sha256(_without_user(url).encode()).hexdigest()[:16] / content


def _without_user(url: str) -> str:
    return re.sub(r"//[^/]*@", "//", url)


class RemoteFolder:
    """The files below a URL, addressed by relative names such as `teacher/KEY.safetensors`, and their local copies.

    A failing request is repeated for `RETRY_SECONDS`. An upload that fails is remembered beside the local copies and
    can be repeated by a later run. Credentials and the endpoint come from the configuration of fsspec.

    Args:
        url: URL of the folder.
        copy: Folder for the local copies.
        warn: Called with a message if the storage fails, and when it works again.

    Raises:
        DDBenchError: The URL is invalid or its protocol is not supported. All methods raise it if permission is denied
            or a request fails for longer than `RETRY_SECONDS`.
    """

    def __init__(self, url: str, copy: Path, warn: Callable[[str], None] | None = None) -> None:
        from fsspec.core import url_to_fs

        self.url = url
        self._shown = _without_user(url)  # the password of the URL must not be printed
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
            raise DDBenchError(f"{self} is not a URL that fsspec supports: {error}") from error
        self._root = str(root).rstrip("/")
        self._uploads_atomically = protocol in ATOMIC_UPLOADS
        if not self._root:
            raise DDBenchError(f"{self} contains no folder: give one, e.g. s3://BUCKET/FOLDER")

    def __str__(self) -> str:
        return self._shown

    def local_path(self, name: str) -> Path:
        """Returns the path of the local copy of a file, whether it exists or not.

        Args:
            name: Name of the file.

        Raises:
            DDBenchError: The name could lead out of the folder.
        """
        if not _SAFE_NAME.fullmatch(name):
            raise DDBenchError(f"{self}: '{name}' is not a valid file name")
        return self.copy / name

    def download(self, name: str, is_valid: Callable[[Path], bool] = Path.exists) -> bool:
        """Replaces the local copy of a file by the remote file, atomically.

        Args:
            name: Name of the file.
            is_valid: Checks the downloaded file. An invalid one is discarded.

        Returns:
            Whether a valid file was downloaded. False also if there is no remote file.
        """
        try:
            with atomic_write(self.local_path(name)) as partial:
                try:
                    self._request(lambda: self._fs.get_file(self._remote_path(name), str(partial)))
                except FileNotFoundError as error:
                    raise _NotDownloaded from error
                if not is_valid(partial):
                    raise _NotDownloaded
        except _NotDownloaded:
            return False
        return True

    def upload(self, name: str) -> None:
        """Replaces the remote file by its local copy, atomically. If that fails, the upload is pending.

        Args:
            name: Name of the file.
        """
        path, target = self.local_path(name), self._remote_path(name)
        with self.pending_upload(name):
            try:
                self._request(lambda: self._put(path, target))
            except OSError as error:
                raise StorageError(f"cannot write to {self}: {error}") from error

    @contextlib.contextmanager
    def pending_upload(self, name: str) -> Iterator[None]:
        """Context manager whose block uploads a file. If the block fails or is killed, the upload stays pending.

        Args:
            name: Name of the file.

        Raises:
            DDBenchError: The block raised a StorageError. The message explains how to repeat the upload.
        """
        mark = self._pending_mark(name)
        with translate_os_errors(mark):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        try:
            yield
        except StorageError as error:
            text = f"{error}; the file is kept in {self.copy}: run the same command again to upload it"
            raise DDBenchError(text, error.cause) from error
        mark.unlink(missing_ok=True)

    def pending_uploads(self) -> list[str]:
        """Returns the names of the files whose upload is pending."""
        names = [unquote(mark.name) for mark in sorted((self.copy / PENDING).glob("*"))]
        return [name for name in names if _SAFE_NAME.fullmatch(name)]

    def is_pending(self, name: str) -> bool:
        """Tests whether the upload of a local copy is pending. The local copy then replaces the remote file.

        Args:
            name: Name of the file.
        """
        return self._pending_mark(name).exists() and self.local_path(name).exists()

    def read_start(self, name: str, size: int) -> bytes | None:
        """Reads the beginning of a remote file.

        Args:
            name: Name of the file.
            size: Number of bytes.

        Returns:
            The bytes, fewer for a shorter file; None if there is no remote file.
        """

        def read() -> bytes:
            try:
                return bytes(self._fs.cat_file(self._remote_path(name), start=0, end=size))
            except OSError as error:
                if error.errno == errno.EINVAL:  # S3 rejects a range of an empty file
                    return b""
                raise

        try:
            return self._request(read)
        except FileNotFoundError:
            return None

    def files(self, folder: str = "") -> list[ListedFile]:
        """Lists the remote files of a folder and its subfolders. Names that could lead out of the folder are left out.

        Args:
            folder: Name of the folder. Empty: the whole remote folder.

        Returns:
            The files, sorted by name.
        """
        try:
            entries = self._request(lambda: self._fs.find(self._remote_path(folder).rstrip("/"), detail=True))
        except FileNotFoundError:
            return []
        files = []
        for path, info in sorted(entries.items()):
            name = str(path).removeprefix(f"{self._root}/")
            if _SAFE_NAME.fullmatch(name) and name.startswith(f"{folder}/" if folder else ""):
                files.append(ListedFile(name, int(info.get("size") or 0), _modified(info)))
        return files

    def remove(self, name: str) -> None:
        """Deletes a remote file and its local copy.

        Args:
            name: Name of the file.
        """
        with contextlib.suppress(FileNotFoundError):
            self._request(lambda: self._fs.rm_file(self._remote_path(name)))
        with translate_os_errors(self.copy):
            self.local_path(name).unlink(missing_ok=True)

    def _pending_mark(self, name: str) -> Path:
        return self.copy / PENDING / quote(name, safe="")

    def _remote_path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _put(self, path: Path, target: str) -> None:
        if self._uploads_atomically:
            self._fs.put_file(str(path), target)
            return
        folder, name = posixpath.split(target)
        partial = f"{folder}/.{name}.{secrets.token_hex(4)}.partial"
        self._fs.makedirs(folder, exist_ok=True)
        self._fs.put_file(str(path), partial)
        self._fs.mv(partial, target)

    def _request(self, request: Callable[[], Response]) -> Response:
        """Returns the response to a request, repeating it while it fails. FileNotFoundError is a response.

        After one request failed for `RETRY_SECONDS`, the following ones are not repeated until one succeeds.
        """
        start, pause, warned = time.monotonic(), 0.5, False
        while True:
            try:
                self._fs.invalidate_cache()  # other hosts change the files, so listings must not be cached
                response = request()
            except FileNotFoundError:
                self._succeeded(warned)
                raise
            except Exception as error:  # each file system raises its own exceptions
                self._raise_if_permanent(error)
                waited = time.monotonic() - start
                if self._failed or waited + pause > RETRY_SECONDS:
                    self._failed = True
                    reason = exception_line(error)
                    text = f"{self} fails for {waited:.0f} s: {reason}"
                    raise StorageError(text, cause=f"{self} fails: {reason}") from error
                if not warned and waited + pause > WARN_AFTER:
                    self._warn(f"{self} fails ({exception_line(error)}); retrying for {RETRY_SECONDS / 60:.0f} minutes")
                    warned = True
            else:
                self._succeeded(warned)
                return response
            interruption.raise_if_requested()
            time.sleep(pause)
            pause = min(2 * pause, 15.0)

    def _succeeded(self, warned: bool) -> None:
        self._failed = False
        if warned:
            self._warn(f"{self} works again")

    def _raise_if_permanent(self, error: Exception) -> None:
        """Raises an error for a failure that a repeated request cannot avoid."""
        if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
            raise StorageError(f"{self}: permission denied: {exception_line(error)}") from error
        if isinstance(error, NotImplementedError) or "Validation" in type(error).__name__:
            raise StorageError(f"{self} cannot be used: {exception_line(error)}") from error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise error


def is_abandoned_upload(file: ListedFile) -> bool:
    """Tests whether a remote file is the leftover of a writer that was killed during an upload.

    Args:
        file: The file.
    """
    return file.name.endswith(".partial") and time.time() - file.modified > ABANDONED_AFTER


def _modified(info: dict[str, Any]) -> float:
    """Returns the time of the last change. File systems differ in its name and type."""
    modified = next((info[name] for name in ("LastModified", "mtime", "last_modified", "updated") if info.get(name)), 0)
    if isinstance(modified, str):
        modified = datetime.fromisoformat(modified)
    return float(modified.timestamp() if hasattr(modified, "timestamp") else modified)
