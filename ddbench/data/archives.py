"""Unpacking archives from outside: nothing lands outside the folder, nothing beyond a stated size."""

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
_COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


class _InBlocks:
    """A stream that is read in blocks: a tar's own headers may say that they are of any number of bytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.tell, self.seek = stream.tell, stream.seek

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _BLOCK:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._stream.read(size)


def unpack(archive: Path, into: Path, max_bytes: int) -> None:
    """Unpacks a .zip or a (compressed) .tar into the folder `into`.

    Only folders and ordinary files are taken: an absolute name, a `..`, a link, a device or a name that comes
    twice refuses the whole archive, and so do more than `max_bytes` of unpacked content (counted as it is
    written, not as the archive claims) or more than MAX_MEMBERS files and folders. Raises DDBenchError for
    these, for damaged archives and for a full disk; what was unpacked until then stays in `into`, which is the
    caller's to remove.
    """
    left = max_bytes
    try:
        members = _zip_members(archive) if zipfile.is_zipfile(archive) else _tar_members(archive)
        for number, (name, content) in enumerate(members, 1):
            if number > MAX_MEMBERS:
                raise DDBenchError(f"{archive.name} holds more than {MAX_MEMBERS} files; refused")
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
    except OSError as error:
        # gzip reports damage as an OSError without a number; those with one come from the disk.
        problem = f"cannot unpack into {into}" if error.errno else f"{archive.name} is damaged"
        raise DDBenchError(f"{problem}: {error.strerror or error}") from error
    except DDBenchError:
        raise
    except Exception as error:  # whatever the readers raise on bytes from outside
        raise DDBenchError(f"{archive.name} is damaged or not an archive: {error}") from error


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
    with archive.open("rb") as start:
        first = start.read(6)
    opener = next((opener for mark, opener in _COMPRESSED.items() if first.startswith(mark)), open)
    with opener(archive, "rb") as stream, tarfile.open(fileobj=_InBlocks(stream), mode="r:") as file:  # type: ignore[call-overload]
        for member in file:
            if not (member.isreg() or member.isdir()):
                raise DDBenchError(f"{archive.name} holds '{member.name}', a link or device; refused")
            yield member.name, file.extractfile(member)
        # The compressed stream's checksum stands behind the last member: only reading that far compares it.
        left = _BLOCK
        while block := stream.read(_BLOCK):
            left -= len(block)
            if left < 0:
                raise DDBenchError(f"{archive.name} goes on behind its last file; refused")


def _safe(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    # A backslash or a colon is a folder or a drive elsewhere; no dataset's own files have one.
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise DDBenchError(f"{archive.name} holds the unsafe name '{name}'; refused")
    return path
