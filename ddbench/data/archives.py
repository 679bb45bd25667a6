"""Unpacks untrusted archives: nothing is written outside of the target folder or beyond a given size."""

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ddbench.core.errors import DDBenchError

MAX_MEMBERS = 1_000_000
_BLOCK = 1024**2
_OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


def unpack(archive: Path, into: Path, max_bytes: int) -> None:
    """Unpacks a .zip or a .tar (plain, gzip, bzip2 or xz) into a folder.

    The archive may hold folders and regular files only. An absolute name, a `..`, a link, a device and a repeated name
    are errors. After an error, the files that were unpacked so far remain in `into`; the caller removes them.

    Args:
        archive: The archive.
        into: The target folder; it is created.
        max_bytes: The largest total size of the unpacked files. It is counted while they are written; the sizes in the
            archive are not trusted.

    Raises:
        DDBenchError: The archive is unsafe or damaged, exceeds `max_bytes` or `MAX_MEMBERS`, or the disk is full.
    """
    remaining = max_bytes
    try:
        members = _zip_members(archive) if zipfile.is_zipfile(archive) else _tar_members(archive)
        for number, (name, content) in enumerate(members, 1):
            if number > MAX_MEMBERS:
                raise DDBenchError(f"{archive.name} holds more than {MAX_MEMBERS} files; refused")
            target = into / _safe_path(archive, name)
            if content is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:  # mode "x" fails if the file exists: a repeated name
                while block := content.read(_BLOCK):
                    remaining -= len(block)
                    if remaining < 0:
                        raise DDBenchError(f"{archive.name} unpacks to more than {max_bytes} bytes; refused")
                    file.write(block)
    except FileExistsError as error:
        raise DDBenchError(f"{archive.name} holds '{name}' twice; refused") from error
    except OSError as error:
        # gzip raises an OSError without errno for damaged data; an OSError with errno comes from the disk.
        problem = f"cannot unpack into {into}" if error.errno else f"{archive.name} is damaged"
        raise DDBenchError(f"{problem}: {error.strerror or error}") from error
    except DDBenchError:
        raise
    except Exception as error:  # the readers raise many types of exceptions for invalid bytes
        raise DDBenchError(f"{archive.name} is damaged or not an archive: {error}") from error


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Yields the name and the content of every file; the content is None for a folder."""
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
    """Yields the name and the content of every file; the content is None for a folder."""
    with archive.open("rb") as raw:
        magic = raw.read(6)
    opener = next((opener for prefix, opener in _OPENERS.items() if magic.startswith(prefix)), open)
    with opener(archive, "rb") as stream, tarfile.open(fileobj=_BoundedReads(stream), mode="r:") as file:  # type: ignore[call-overload]
        for member in file:
            if not (member.isreg() or member.isdir()):
                raise DDBenchError(f"{archive.name} holds '{member.name}', a link or device; refused")
            yield member.name, file.extractfile(member)
        # The checksum of a compressed stream is verified at its end, which lies after the last member.
        remaining = _BLOCK
        while block := stream.read(_BLOCK):
            remaining -= len(block)
            if remaining < 0:
                raise DDBenchError(f"{archive.name} has trailing data after its last member; refused")


class _BoundedReads:
    """A stream that refuses large reads, because a tar header can state any length."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.tell, self.seek = stream.tell, stream.seek

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _BLOCK:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._stream.read(size)


def _safe_path(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    # On other systems a backslash separates folders and a colon follows a drive letter. No known dataset uses them.
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise DDBenchError(f"{archive.name} holds the unsafe name '{name}'; refused")
    return path
