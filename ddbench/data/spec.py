"""What a dataset is, as data: name, sizes, normalisation, how to open it, where it is published."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.errors import DDBenchError
from ddbench.events import Event

if TYPE_CHECKING:
    from ddbench.data.source import Source

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
