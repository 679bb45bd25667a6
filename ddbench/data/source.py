"""The images of a split, as files or as arrays in memory, with an order, names and a fingerprint."""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddbench.core.errors import DDBenchError
from ddbench.core.text import path_text
from ddbench.data.decode import CorruptImage, Header, OtherFormat, Pixels, decode, parallel_map, read_header

MAX_FILE_BYTES = 512 * 1024**2
"""The largest image file that is read; an image of `MAX_PIXELS` needs less."""
SMALL_FILE_BYTES = 1024**2
"""A smaller file is read at once to compute its digest, because `hashlib.file_digest` allocates a buffer."""
_HEADER_BYTES = 64 * 1024
T = TypeVar("T")


class EncodedSplit:
    """The encoded images of a split: the content of image files. Implements `ddbench.api.dataset.Split`.

    Args:
        labels: int64 [n], sorted.

    Attributes:
        labels: int64 [n], sorted.
        deep: The positions of the images above 8 bits per channel among those that were read so far.
    """

    def __init__(self, labels: NDArray[np.int64]) -> None:
        self.labels = labels
        self.deep: set[int] = set()

    def name(self, index: int) -> str:
        """Returns the name of an image for messages."""
        raise NotImplementedError

    def suffix(self, index: int) -> str:
        """Returns the suffix of the name of an image file; empty if it has no name."""
        return ""

    @cached_property
    def digests(self) -> NDArray[np.uint8]:
        """The SHA-256 of every encoded image, [n, 32]."""
        digests = b"".join(parallel_map(self.read_digest, len(self.labels)))
        return np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32)

    def read_digest(self, index: int) -> bytes:
        """Computes the SHA-256 of an encoded image."""
        return hashlib.sha256(self._read(index)).digest()

    def identity(self) -> Iterator[bytes]:
        """Yields what the fingerprint covers of every image."""
        raise NotImplementedError

    def _read(self, index: int, count: int = -1) -> bytes:
        """Returns an encoded image, or its first `count` bytes."""
        raise NotImplementedError

    def image(self, index: int) -> Image.Image:
        """Decodes an image to RGB."""
        data = self._read(index)
        self._header(index, data)
        return self._call(index, lambda: decode(data))

    def shape(self, index: int) -> tuple[int, int]:
        """Reads height and width from the header."""
        try:
            header = self._header(index, self._read(index, _HEADER_BYTES))
        except CorruptImage:
            # A header with a thumbnail or a colour profile may be longer than usual.
            header = self._header(index, self._read(index))
        return header.height, header.width

    def _header(self, index: int, data: bytes) -> Header:
        header = self._call(index, lambda: read_header(data))
        if header.is_deep:
            self.deep.add(index)
        return header

    def _call(self, index: int, read: Callable[[], T]) -> T:
        try:
            return read()
        except OtherFormat as error:
            suffix = self.suffix(index)
            raise CorruptImage(f"{error} named {suffix}" if suffix else str(error)) from error


class FileSplit(EncodedSplit):
    """The image files of a split, sorted by class and name.

    Args:
        root: The folder of the dataset.
        files: The label and the path of every file; paths are relative to `root`, with `/`.

    Attributes:
        names: The paths, sorted.
    """

    def __init__(self, root: Path, files: Sequence[tuple[int, str]]) -> None:
        self.root = root
        self._root = f"{root}/"
        ordered = sorted(files)
        self.names = [name for _, name in ordered]
        super().__init__(np.array([label for label, _ in ordered], dtype=np.int64))

    def name(self, index: int) -> str:
        """Returns the path of an image, as text that can be written as UTF-8."""
        return path_text(self.root / self.names[index])

    def suffix(self, index: int) -> str:
        """Returns the suffix of the name of an image file."""
        return path_text(Path(self.names[index]).suffix)

    def _path(self, index: int) -> str:
        return f"{self._root}{self.names[index]}"  # a `Path` for each of a million files takes longer than its status

    @contextlib.contextmanager
    def _open(self, index: int) -> Iterator[FileIO]:
        try:
            with FileIO(self._path(index)) as file:
                yield file
        except OSError as error:
            raise DDBenchError(f"cannot read {self.name(index)}: {error.strerror or error}") from error

    def _read(self, index: int, count: int = -1) -> bytes:
        with self._open(index) as file:
            if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
                raise CorruptImage(f"more than {MAX_FILE_BYTES} bytes")
            return file.read(count)

    @cached_property
    def status(self) -> NDArray[np.uint64]:
        """Size, time of modification and of change in ns, inode and device of every file, [n, 5]."""
        statuses = np.empty((len(self.names), 5), dtype=np.uint64)

        def fill(index: int) -> None:
            try:
                status = os.stat(self._path(index))  # noqa: PTH116
            except OSError as error:
                path = self.root / self.names[index]
                if path.is_symlink() and isinstance(error, FileNotFoundError):
                    target = path_text(path.readlink())
                    raise DDBenchError(f"{self.name(index)} is a link to {target}, which does not exist") from error
                raise DDBenchError(f"cannot read {self.name(index)}: {error.strerror or error}") from error
            if not stat.S_ISREG(status.st_mode):  # a read from a pipe or a device may never end
                raise DDBenchError(f"{self.name(index)} is not a regular file")
            values = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev
            statuses[index] = [value % 2**64 for value in values]  # times before 1970 are negative

        for _ in parallel_map(fill, len(self.names)):
            pass
        return statuses

    def read_digest(self, index: int) -> bytes:
        """Computes the SHA-256 of a file. A file above `MAX_FILE_BYTES` is never decoded and counts as empty."""
        with self._open(index) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                return hashlib.sha256().digest()
            if size > SMALL_FILE_BYTES:
                return hashlib.file_digest(file, "sha256").digest()
            return hashlib.sha256(file.readall()).digest()

    def identity(self) -> Iterator[bytes]:
        """Yields path, label, size and SHA-256 of every file, for the fingerprint."""
        sizes = self.status[:, 0].tolist()
        for name, label, size, digest in zip(self.names, self.labels.tolist(), sizes, self.digests, strict=True):
            yield json.dumps([name, label, size, digest.tobytes().hex()]).encode()


class ArraySplit:
    """The images of a split in memory, sorted by class. Implements `ddbench.api.dataset.Split`.

    Args:
        pixels: uint8 [n, H, W] (gray) or [n, H, W, 3] (RGB).
        labels: Integers [n].

    Attributes:
        pixels: The pixels, sorted by class.
        labels: int64 [n], sorted.

    Raises:
        ValueError: Wrong types or shapes.

    Example:
        >>> split = ArraySplit(np.zeros((3, 8, 8), np.uint8), np.array([1, 0, 1]))
        >>> split.labels.tolist(), split.shape(0)
        ([0, 1, 1], (8, 8))
    """

    def __init__(self, pixels: Pixels, labels: NDArray[np.integer]) -> None:
        if pixels.dtype != np.uint8 or pixels.shape[3:] not in ((), (3,)) or pixels.ndim < 3:
            raise ValueError(f"pixels are {pixels.dtype} {list(pixels.shape)}, not uint8 [n, H, W] or [n, H, W, 3]")
        if labels.shape != pixels.shape[:1]:
            raise ValueError(f"{len(pixels)} images have labels of shape {list(labels.shape)}")
        order = np.argsort(labels, kind="stable")
        self.pixels = np.ascontiguousarray(pixels[order])
        self.labels = labels[order].astype(np.int64)

    def name(self, index: int) -> str:
        """Returns the position of an image, as text."""
        return f"image {index}"

    def image(self, index: int) -> Image.Image:
        """Returns an image, RGB."""
        return Image.fromarray(self.pixels[index]).convert("RGB")

    def shape(self, index: int) -> tuple[int, int]:
        """Returns height and width."""
        return self.pixels.shape[1], self.pixels.shape[2]

    @cached_property
    def digests(self) -> NDArray[np.uint8]:
        """The SHA-256 of the pixels of every image, [n, 32]."""
        digests = b"".join(hashlib.sha256(image.data).digest() for image in self.pixels)
        return np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32)

    def identity(self) -> Iterator[bytes]:
        """Yields the shape, the labels and the SHA-256 of the pixels, for the fingerprint."""
        yield json.dumps([list(self.pixels.shape), self.labels.tolist()]).encode()
        yield hashlib.sha256(self.pixels.data).digest()
