"""Fetching a dataset: checked against its published digest, moved in place only when whole."""

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
_STEP_BYTES = 16 * _MIB
_UNREACHABLE = (
    urllib.error.URLError,
    http.client.HTTPException,
    TimeoutError,
    ConnectionError,
    ssl.SSLError,
    ValueError,  # an address that is none, where a server sends us elsewhere
)


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows a server to other addresses of the web alone."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith(("http://", "https://")):
            raise urllib.error.HTTPError(newurl, code, f"sent on to {newurl}, which is not of the web", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def install(download: Download, data_dir: Path, report: Report) -> None:
    """Makes `data_dir`/`download.folder` out of its published files, where it is not there already.

    Two processes do it one after the other. What was fetched of a file stays in `data_dir`/.downloads until
    it is whole, so an interrupted download goes on where it stopped. Raises DDBenchError: unreachable,
    another digest, too large, unsafe or damaged archive, disk full or not writable; then the folder is not
    there.
    """
    for name in (download.folder, *map(_name, download.files)):
        if name in ("", ".", "..") or Path(name).name != name:
            raise DDBenchError(f"a download cannot be called '{name}': it would lie elsewhere than in the data folder")
    target = data_dir / download.folder
    store = data_dir / ".downloads"
    try:
        store.mkdir(parents=True, exist_ok=True)
        with FileLock(store / f"{download.folder}.lock"):
            if target.exists():
                return
            files = [fetch(file, store, download.max_bytes, report) for file in download.files]
            # A fixed name: what a killed process left of it is found and removed.
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
    """Downloads one file into `folder` under its own name and returns its path.

    Goes on from NAME.part if one is there. Raises DDBenchError: unreachable, more than `max_bytes`, or not
    the published digest (the part is then removed).
    """
    name = _name(file)
    whole, part = folder / name, folder / f"{name}.part"
    if whole.exists():
        _check(whole, file)  # it was put there whole, but perhaps long ago
    else:
        try:
            _receive(file.url, part, max_bytes, report)
        except _UNREACHABLE as error:
            reason = getattr(error, "reason", None) or error
            raise DDBenchError(
                f"cannot download {file.url}: {reason}; run again to go on, or get the dataset by other "
                "means and give its folder with --data-dir or DDBENCH_DATA"
            ) from error
        _check(part, file)
        part.replace(whole)
    return whole


def _name(file: RemoteFile) -> str:
    """What its address ends with, whatever the server calls it."""
    return file.url.rsplit("/", 1)[-1]


def _receive(url: str, part: Path, max_bytes: int, report: Report) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        reply = urllib.request.build_opener(_WebOnly).open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # there is nothing after what we have: the digest decides
        raise
    with reply:
        if reply.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0  # a server without ranges sends all of it again
        total = have + (reply.length or 0)
        if total > max_bytes:
            raise DDBenchError(f"{url} is larger than the {max_bytes} bytes expected: {total}; refused")
        told = have

        def tell(kind: Kind, message: str = "") -> None:
            unit = f"{part.name.removesuffix('.part')} (MiB)"
            report(Event(kind, "data", unit, have // _MIB, total // _MIB, message=message))

        tell("started", f"downloading {url}")
        with part.open("ab" if have else "wb") as out:
            while block := reply.read(_MIB):
                have += len(block)
                if have > max_bytes:
                    part.unlink()
                    raise DDBenchError(f"{url} is larger than the {max_bytes} bytes expected; stopped")
                out.write(block)
                if have - told >= _STEP_BYTES:
                    told = have
                    tell("step")
        if total and have < total:
            raise http.client.IncompleteRead(b"", total - have)
        tell("finished")


def _check(part: Path, file: RemoteFile) -> None:
    algorithm, _, expected = file.digest.partition(":")
    with part.open("rb") as content:
        found = hashlib.file_digest(content, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if found != expected:
        part.unlink()
        raise DDBenchError(
            f"{file.url} is not the published file: its {algorithm} is {found}, expected {expected}; removed"
        )
