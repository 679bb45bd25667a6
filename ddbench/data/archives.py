"""Unpacking archives from outside: nothing lands outside the folder, nothing beyond a stated size."""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from ddbench.errors import DDBenchError

_BLOCK = 1024**2
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    ValueError,
)


def unpack(archive: Path, into: Path, max_bytes: int) -> None:
    """Unpacks a .zip or a (compressed) .tar into the folder `into`.

    Only folders and ordinary files are taken: an absolute name, a `..`, a link, a device or a name that comes
    twice refuses the whole archive, and so do more than `max_bytes` of unpacked content (counted as it is
    written, not as the archive claims). Raises DDBenchError for these, for damaged archives and for a full
    disk; what was unpacked until then stays in `into`, which is the caller's to remove.
    """
    left = max_bytes
    try:
        members = _zip_members(archive) if zipfile.is_zipfile(archive) else _tar_members(archive)
        for name, content in members:
            target = into / _safe(archive, name)
            if content is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:  # x: a second member of this name must not write through the first
                while block := content.read(_BLOCK):
                    left -= len(block)
                    if left < 0:
                        raise DDBenchError(f"{archive.name} unpacks to more than {max_bytes} bytes; refused")
                    file.write(block)
    except FileExistsError as error:
        raise DDBenchError(f"{archive.name} holds '{name}' twice; refused") from error
    except _BROKEN as error:
        raise DDBenchError(f"{archive.name} is damaged or not an archive: {error}") from error
    except OSError as error:
        # gzip reports damage as an OSError without a number; those with one come from the disk.
        problem = f"cannot unpack into {into}" if error.errno else f"{archive.name} is damaged"
        raise DDBenchError(f"{problem}: {error.strerror or error}") from error


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DDBenchError(f"{archive.name} holds '{member.filename}', a link or device; refused")
            if member.is_dir():
                yield member.filename, None
            else:
                with file.open(member) as content:
                    yield member.filename, content


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with tarfile.open(archive, "r:*") as file:
        for member in file:
            if not (member.isreg() or member.isdir()):
                raise DDBenchError(f"{archive.name} holds '{member.name}', a link or device; refused")
            yield member.name, file.extractfile(member)
        # The compressed stream's checksum stands behind the last member: only reading that far compares it.
        while file.fileobj is not None and file.fileobj.read(_BLOCK):
            pass


def _safe(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    # A backslash or a colon is a folder or a drive elsewhere; no dataset's own files have one.
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise DDBenchError(f"{archive.name} holds the unsafe name '{name}'; refused")
    return path
