"""Results on shared storage: a local copy of the records, and the upload of every new file."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ddbench.core.files import write_hooks
from ddbench.storage.remote_folder import ListedFile, RemoteFolder, local_copy

RESULT_FOLDERS = ("records", "efficiency", "runs", "failures", "figures")
"""The folders of results that are downloaded. New files in any folder are uploaded."""
PARALLEL_DOWNLOADS = 16
"""Number of small files that are downloaded at the same time."""


def open_results(url: str, warn: Callable[[str], None] | None = None) -> Path:
    """Updates the local copy of the results at a URL and uploads every file that is written below it from now on.

    Pending uploads of earlier runs come first. A local file that was removed from the remote folder is deleted. The
    content of the files is not verified here: records have a digest that is verified when they are read.

    Args:
        url: URL of the results.
        warn: Called with a message if the storage fails, and when it works again.

    Returns:
        The folder of the local copy.

    Raises:
        DDBenchError: The URL is invalid or the storage fails.
    """
    remote = RemoteFolder(url, local_copy(url, "results"), warn)
    copy = remote.copy
    write_hooks.pop(copy, None)
    for name in remote.pending_uploads():
        if (copy / name).exists():
            remote.upload(name)
    remote_files = {
        file.name: file for folder in RESULT_FOLDERS for file in remote.files(folder) if not _is_partial(file.name)
    }
    with ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
        list(pool.map(lambda file: _download_if_changed(remote, file), remote_files.values()))
    for path in (path for folder in RESULT_FOLDERS for path in (copy / folder).rglob("*") if path.is_file()):
        name = path.relative_to(copy).as_posix()
        if name not in remote_files and not _is_partial(name) and not remote.is_pending(name):
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def upload_after(path: Path) -> Iterator[None]:
        name = path.relative_to(copy).as_posix()
        with remote.pending_upload(name):
            yield
            remote.upload(name)

    write_hooks[copy] = upload_after
    return copy


def _is_partial(name: str) -> bool:
    """Whether a file is being written: `atomic_write` and uploads use hidden names."""
    return "/." in name


def _download_if_changed(remote: RemoteFolder, file: ListedFile) -> None:
    path = remote.local_path(file.name)
    with contextlib.suppress(OSError):
        local = path.stat()
        if (local.st_size, int(local.st_mtime)) == (file.bytes, int(file.modified)):
            return
    if not remote.is_pending(file.name) and remote.download(file.name):
        modified = file.modified or time.time()
        os.utime(path, (modified, modified))
