"""The images of a split, as files or as arrays in memory, with an order, names and a fingerprint."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddbench.core.errors import DDBenchError
from ddbench.data.decode import CorruptImage, Pixels, decode, image_size, parallel_map

MAX_FILE_BYTES = 512 * 1024**2
"""The largest image file that is read; an image of `MAX_PIXELS` needs less."""
_HEADER_BYTES = 64 * 1024


class FileSplit:
    """The image files of a split, sorted by class and name. Implements `ddbench.api.dataset.Split`.

    Args:
        root: The folder of the dataset.
        files: The label and the path of every file; paths are relative to `root`, with `/`.

    Attributes:
        names: The paths, sorted.
        labels: int64 [n], sorted.
    """

    def __init__(self, root: Path, files: Sequence[tuple[int, str]]) -> None:
        self.root = root
        ordered = sorted(files)
        self.names = [name for _, name in ordered]
        self.labels = np.array([label for label, _ in ordered], dtype=np.int64)
        self._sizes: list[int] | None = None

    def name(self, index: int) -> str:
        """Returns the path of an image."""
        return str(self.root / self.names[index])

    def _read(self, index: int, count: int = -1) -> bytes:
        try:
            with (self.root / self.names[index]).open("rb") as file:
                if count < 0 and os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
                    raise CorruptImage(f"more than {MAX_FILE_BYTES} bytes")
                return file.read(count)
        except OSError as error:
            raise DDBenchError(f"cannot read {self.name(index)}: {error.strerror or error}") from error

    def image(self, index: int) -> Image.Image:
        """Decodes an image to RGB."""
        return decode(self._read(index))

    def shape(self, index: int) -> tuple[int, int]:
        """Reads height and width from the header."""
        try:
            return image_size(self._read(index, _HEADER_BYTES))
        except CorruptImage:
            # A header with a thumbnail or a colour profile may be longer than usual.
            return image_size(self._read(index))

    def _file_sizes(self) -> list[int]:
        if self._sizes is None:

            def size(index: int) -> int:
                try:
                    status = (self.root / self.names[index]).stat()
                except OSError as error:
                    raise DDBenchError(f"cannot read {self.name(index)}: {error.strerror or error}") from error
                if not stat.S_ISREG(status.st_mode):  # a read from a pipe or a device may never end
                    raise DDBenchError(f"{self.name(index)} is not a regular file")
                return status.st_size

            self._sizes = list(parallel_map(size, len(self.names)))
        return self._sizes

    def _digest(self, index: int) -> str:
        try:
            with (self.root / self.names[index]).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DDBenchError(f"cannot read {self.name(index)}: {error.strerror or error}") from error

    def num_bytes(self) -> int:
        """Returns the total size of the files."""
        return sum(self._file_sizes())

    def identity(self, content: bool) -> Iterator[bytes]:
        """Yields path, label and size of every file, and with `content` its SHA-256, for the fingerprint."""
        sizes = self._file_sizes()

        def line(index: int) -> bytes:
            digest = self._digest(index) if content else ""
            parts = [self.names[index], int(self.labels[index]), sizes[index], digest]
            return json.dumps(parts).encode()

        return parallel_map(line, len(self.names))


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

    def num_bytes(self) -> int:
        """Returns 0: the content is in memory, so it is always part of the fingerprint."""
        return 0

    def identity(self, content: bool) -> Iterator[bytes]:
        """Yields the shape, the labels and the SHA-256 of the pixels, for the fingerprint."""
        yield json.dumps([list(self.pixels.shape), self.labels.tolist()]).encode()
        yield hashlib.sha256(self.pixels.data).digest()
