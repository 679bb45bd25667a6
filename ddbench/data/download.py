"""Downloads datasets: files are checked against published digests, and a folder appears complete or not at all."""

import hashlib
import http.client
import shutil
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from ddbench.api.dataset import Download, RemoteFile, Report
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event, Kind
from ddbench.data.archives import unpack

_MIB = 1024**2
_TIMEOUT_S = 30
_REPORT_BYTES = 16 * _MIB
_NETWORK_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    TimeoutError,
    ConnectionError,
    ssl.SSLError,
    ValueError,  # raised for an invalid address in a redirect
)


def install(download: Download, data_dir: Path, report: Report) -> None:
    """Downloads and unpacks a dataset into `data_dir`/`download.folder`, if this folder does not exist yet.

    A lock ensures that only one process downloads at a time. Incomplete files stay in `data_dir`/.downloads, so an
    interrupted download can be resumed.

    Args:
        download: The files, their digests, and the folder that they make.
        data_dir: The data folder; it is created.
        report: Called with progress events.

    Raises:
        DDBenchError: A server cannot be reached; a file has another digest or is too large; an archive is unsafe or
            damaged; the disk is full or not writable. The folder does not exist then.
    """
    for name in (download.folder, *map(_file_name, download.files)):
        if name in ("", ".", "..") or Path(name).name != name:
            raise DDBenchError(f"the download '{name}' is not a file name: it would lie outside of the data folder")
    target = data_dir / download.folder
    store = data_dir / ".downloads"
    try:
        store.mkdir(parents=True, exist_ok=True)
        with FileLock(store / f"{download.folder}.lock"):
            if target.exists():
                return
            files = [fetch(file, store, download.max_bytes, report) for file in download.files]
            # The name is fixed, so that the next attempt removes the leftovers of a killed process.
            scratch = store / f"{download.folder}.unpacking"
            shutil.rmtree(scratch, ignore_errors=True)
            try:
                scratch.mkdir()
                _fill(scratch, files, download, report)
                (scratch / download.folder).replace(target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            for file in files:
                file.unlink(missing_ok=True)
    except OSError as error:
        raise DDBenchError(f"cannot write the dataset to {data_dir}: {error.strerror or error}") from error


def _fill(scratch: Path, files: list[Path], download: Download, report: Report) -> None:
    """Makes `scratch`/`download.folder` from the downloaded files."""
    if not download.unpack:
        folder = scratch / download.folder
        folder.mkdir()
        for file in files:
            shutil.copyfile(file, folder / file.name)
        return
    report(Event("note", "data", download.folder, message=f"unpacking {', '.join(file.name for file in files)}"))
    for file in files:
        unpack(file, scratch, download.max_bytes)
    if not (scratch / download.folder).is_dir():
        raise DDBenchError(f"{files[0].name} does not hold the folder {download.folder}/")


def fetch(file: RemoteFile, folder: Path, max_bytes: int, report: Report) -> Path:
    """Downloads one file. If NAME.part exists in the folder, the download resumes there.

    Args:
        file: The address and the digest.
        folder: The target folder; it exists.
        max_bytes: The largest size to accept.
        report: Called with progress events.

    Returns:
        The path of the file; its name is the last part of the address.

    Raises:
        DDBenchError: The server cannot be reached, the file is larger than `max_bytes`, or its digest differs (then
            the partial file is removed).
    """
    name = _file_name(file)
    complete, part = folder / name, folder / f"{name}.part"
    if complete.exists():
        _check_digest(complete, file)  # the file may have changed since its download
    else:
        try:
            _download(file.url, part, max_bytes, report)
        except _NETWORK_ERRORS as error:
            reason = getattr(error, "reason", None) or error
            raise DDBenchError(
                f"cannot download {file.url}: {reason}; run again to resume, or download the dataset yourself and give "
                "its folder with --data-dir or DDBENCH_DATA"
            ) from error
        _check_digest(part, file)
        part.replace(complete)
    return complete


def _file_name(file: RemoteFile) -> str:
    """The last part of the address. The name that a server sends is ignored."""
    return file.url.rsplit("/", 1)[-1]


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith(("http://", "https://")):
            raise urllib.error.HTTPError(newurl, code, f"redirect to {newurl}, which is not a web address", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(url: str, part: Path, max_bytes: int, report: Report) -> None:
    """Downloads to `part`, resuming at its present size."""
    size = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={size}-"} if size else {})
    try:
        response = urllib.request.build_opener(_WebRedirects).open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and size:
            return  # the file is already complete; the caller checks its digest
        raise
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            size = 0  # the server ignores ranges and sends the whole file
        total = size + (response.length or 0)
        if total > max_bytes:
            raise DDBenchError(f"{url} is larger than the {max_bytes} bytes expected: {total}; refused")
        reported = size

        def emit(kind: Kind, message: str = "") -> None:
            unit = part.name.removesuffix(".part")
            report(Event(kind, "data", unit, size // _MIB, total // _MIB, message=message, counted="MiB"))

        emit("started", f"downloading {url}")
        with part.open("ab" if size else "wb") as out:
            while block := response.read(_MIB):
                size += len(block)
                if size > max_bytes:
                    part.unlink()
                    raise DDBenchError(f"{url} is larger than the {max_bytes} bytes expected; stopped")
                out.write(block)
                if size - reported >= _REPORT_BYTES:
                    reported = size
                    emit("step")
        if total and size < total:
            raise http.client.IncompleteRead(b"", total - size)
        emit("finished")


def _check_digest(path: Path, file: RemoteFile) -> None:
    """Raises DDBenchError and removes the file if its digest is not the published one."""
    algorithm, _, expected = file.digest.partition(":")
    with path.open("rb") as content:
        actual = hashlib.file_digest(content, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if actual != expected:
        path.unlink()
        raise DDBenchError(
            f"{file.url} is not the published file: its {algorithm} is {actual}, expected {expected}; removed"
        )
