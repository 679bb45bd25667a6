"""Where a dataset's images come from: files or arrays in memory, named, ordered, fingerprinted."""

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

MAX_FILE_BYTES = 512 * 1024**2  # more than any image of MAX_PIXELS takes
_HEADER_BYTES = 64 * 1024


class FileSplit:
    """Image files under `root`: `names` are paths relative to it, with `/`; `labels` their classes."""

    def __init__(self, root: Path, files: Sequence[tuple[int, str]]) -> None:
        self.root = root
        ordered = sorted(files)
        self.names = [name for _, name in ordered]
        self.labels = np.array([label for label, _ in ordered], dtype=np.int64)
        self._sizes: list[int] | None = None

    def name(self, index: int) -> str:
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
        return decode(self._read(index))

    def shape(self, index: int) -> tuple[int, int]:
        try:
            return image_size(self._read(index, _HEADER_BYTES))
        except CorruptImage:
            # A header may be longer than usual (an embedded thumbnail or profile).
            return image_size(self._read(index))

    def _file_sizes(self) -> list[int]:
        if self._sizes is None:

            def size(index: int) -> int:
                try:
                    found = (self.root / self.names[index]).stat()
                except OSError as error:
                    raise DDBenchError(f"cannot read {self.name(index)}: {error.strerror or error}") from error
                if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, a device has no end
                    raise DDBenchError(f"{self.name(index)} is no ordinary file")
                return found.st_size

            self._sizes = list(parallel_map(size, len(self.names)))
        return self._sizes

    def _digest(self, index: int) -> str:
        try:
            with (self.root / self.names[index]).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DDBenchError(f"cannot read {self.name(index)}: {error.strerror or error}") from error

    def num_bytes(self) -> int:
        return sum(self._file_sizes())

    def identity(self, content: bool) -> Iterator[bytes]:
        sizes = self._file_sizes()

        def line(index: int) -> bytes:
            digest = self._digest(index) if content else ""
            parts = [self.names[index], int(self.labels[index]), sizes[index], digest]
            return json.dumps(parts).encode()

        return parallel_map(line, len(self.names))


class ArraySplit:
    """Images in memory: `pixels` uint8 [n, H, W] (gray) or [n, H, W, 3] (RGB), `labels` [n]. ValueError for others."""

    def __init__(self, pixels: Pixels, labels: NDArray[np.integer]) -> None:
        if pixels.dtype != np.uint8 or pixels.shape[3:] not in ((), (3,)) or pixels.ndim < 3:
            raise ValueError(f"pixels are {pixels.dtype} {list(pixels.shape)}, not uint8 [n, H, W] or [n, H, W, 3]")
        if labels.shape != pixels.shape[:1]:
            raise ValueError(f"{len(pixels)} images have labels of shape {list(labels.shape)}")
        order = np.argsort(labels, kind="stable")
        self.pixels = np.ascontiguousarray(pixels[order])
        self.labels = labels[order].astype(np.int64)

    def name(self, index: int) -> str:
        return f"image {index}"

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index]).convert("RGB")

    def shape(self, index: int) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[2]

    def num_bytes(self) -> int:
        return 0  # already in memory: its content always counts, whatever the size

    def identity(self, content: bool) -> Iterator[bytes]:
        yield json.dumps([list(self.pixels.shape), self.labels.tolist()]).encode()
        yield hashlib.sha256(self.pixels.data).digest()
