"""What a dataset is, as data: name, sizes, normalisation, how to open it, where it is published."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

Report = Callable[[Event], None]
RGB = tuple[float, float, float]

IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)


class MissingDataError(DDBenchError):
    """A dataset's files are not where they were looked for (as opposed to: they are there and broken)."""


@dataclass(frozen=True)
class RemoteFile:
    """One published file: its address and its digest, `md5:HEX` or `sha256:HEX`, as its authors give it."""

    url: str
    digest: str


@dataclass(frozen=True)
class Download:
    """How a dataset gets into a data folder: `files` make up `folder` there.

    With `unpack`, the files are archives (.zip, .tar.gz, .tgz) that hold `folder`; else they are put into it
    as they are. `max_bytes` bounds what is fetched and, apart from that, what is unpacked.
    """

    folder: str
    files: tuple[RemoteFile, ...]
    max_bytes: int
    unpack: bool = True


CONTENT_BYTES = 2 * 1024**3


class Split(Protocol):
    """Images of one split, sorted by class, then by name."""

    labels: NDArray[np.int64]

    def name(self, index: int) -> str:
        """What an image is called, for people: a path, or a position."""

    def image(self, index: int) -> Image.Image:
        """The image, RGB. Raises CorruptImage if it cannot be decoded, DDBenchError if it cannot be read."""

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width in pixels, from the header alone where there is one. Raises as `image`."""

    def num_bytes(self) -> int:
        """Bytes that a digest of the whole content would read."""

    def identity(self, content: bool) -> Iterator[bytes]:
        """What goes into the fingerprint; `content`: with a digest of every file."""


@dataclass(frozen=True)
class Source:
    """A dataset that was found: its classes in label order and its two splits.

    `class_names` identify the classes (folder names, wnids); `class_titles` are for people, and the names
    again where nothing better is known.
    """

    class_names: tuple[str, ...]
    train: Split
    val: Split
    class_titles: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises ValueError where the classes, or the labels of a split, are none that a dataset can have."""
        import numpy as np

        names = self.class_names
        if not names or len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):
            raise ValueError("its class names are not different texts, one or more")
        for name, split in (("train", self.train), ("val", self.val)):
            labels = split.labels
            if labels.dtype != np.int64 or labels.ndim != 1 or not len(labels) or (np.diff(labels) < 0).any():
                raise ValueError(f"the labels of {name} are not a list of int64, sorted")
            if labels[0] < 0 or labels[-1] >= len(names):
                raise ValueError(f"the labels of {name} go from {labels[0]} to {labels[-1]}: {len(names)} classes")

    def fingerprint(self) -> str:
        """32 hex digits that stand for this very data, wherever the folder lies and whenever it was copied.

        Covers the class order and, of both splits, every image's label, relative path, file size and content
        (SHA-256). The content is left out where the files come to more than CONTENT_BYTES: there
        (ImageNet-1K) an image replaced by another of exactly the same size goes unnoticed. Raises
        DDBenchError for unreadable files.
        """
        content = self.train.num_bytes() + self.val.num_bytes() <= CONTENT_BYTES
        digest = hashlib.sha256(json.dumps([self.class_names, content]).encode())
        for name, split in (("train", self.train), ("val", self.val)):
            digest.update(f"\n{name}".encode())
            for line in split.identity(content):
                digest.update(b"\n" + line)
        return digest.hexdigest()[:32]


@dataclass(frozen=True)
class DatasetInfo:
    """A dataset without its images.

    Classes in label order, images a class, and the side of what networks see, in pixels. `class_titles` are
    the names for people (pictures, reports). `fingerprint` is `Source.fingerprint`.
    """

    name: str
    class_names: tuple[str, ...]
    class_titles: tuple[str, ...]
    train_counts: tuple[int, ...]
    val_counts: tuple[int, ...]
    image_size: int
    fingerprint: str

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset by name.

    `open` finds its files under a data folder (None: `default_data_dir()`) and never asks the network.
    `native_size`: side in pixels at which the field uses the set. `mean`, `std`: of RGB values in [0, 1].
    `classes`, `train_size`, `val_size`: of the complete published set, None where only the person's folder
    knows. `layout`: for people, what is looked for in the data folder. `download`: for people, where it is
    published; `fetch` gets it from there into a data folder, whole or not at all (None: it cannot be fetched,
    or need not be).
    """

    name: str
    about: str
    source: str
    native_size: int
    open: Callable[[Path | None], Source]
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD
    classes: int | None = None
    train_size: int | None = None
    val_size: int | None = None
    layout: str = ""
    download: str = ""
    fetch: Callable[[Path, Report], None] | None = None


def default_data_dir() -> Path:
    """Where datasets are downloaded to, and looked for when no data folder is given."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ddbench" / "data"
