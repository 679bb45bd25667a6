"""The public classes that define a dataset: its specification, its download, its splits. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.core.files import user_cache_dir

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

Report = Callable[[Event], None]
RGB = tuple[float, float, float]

IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)


class MissingDataError(DDBenchError):
    """The files of a dataset do not exist. (Damaged files raise another DDBenchError.)"""


@dataclass(frozen=True)
class RemoteFile:
    """One published file.

    Attributes:
        url: Its address.
        digest: The digest that its authors publish, `md5:HEX` or `sha256:HEX`.
    """

    url: str
    digest: str


@dataclass(frozen=True)
class Download:
    """How to download a dataset into a data folder.

    Attributes:
        folder: Name of the folder to create in the data folder.
        files: The files to download.
        max_bytes: Limit on the size of the downloads, and separately on the size of the unpacked files.
        unpack: Whether the files are archives (.zip, .tar.gz, .tgz) that contain `folder`. Otherwise they are put
            into `folder` unchanged.
    """

    folder: str
    files: tuple[RemoteFile, ...]
    max_bytes: int
    unpack: bool = True


class Split(Protocol):
    """The original images of one split, sorted by class, then by name.

    Attributes:
        labels: int64 [n], sorted.
    """

    labels: NDArray[np.int64]

    def name(self, index: int) -> str:
        """Returns the name of an image for messages: a path or a position.

        Args:
            index: Position of the image in the split.
        """

    def image(self, index: int) -> Image.Image:
        """Decodes an image.

        Args:
            index: Position of the image in the split.

        Returns:
            The image in RGB.

        Raises:
            CorruptImage: It cannot be decoded.
            DDBenchError: Its file cannot be read.
        """

    def shape(self, index: int) -> tuple[int, int]:
        """Reads the size of an image, from the header of its file if possible.

        Args:
            index: Position of the image in the split.

        Returns:
            Height and width in pixels.

        Raises:
            CorruptImage: It cannot be decoded.
            DDBenchError: Its file cannot be read.
        """

    def identity(self) -> Iterator[bytes]:
        """Yields the lines that the fingerprint covers: label, name, size and digest of every image."""


@dataclass(frozen=True)
class Source:
    """An opened dataset: its classes and its two splits.

    Attributes:
        class_names: Identifiers of the classes (folder names, wnids) in label order.
        train: The training split.
        val: The validation split. None: the settings `data.split` or `data.holdout` draw it from the training split.
        class_titles: Names of the classes for pictures and reports. If empty, `class_names` are used.
        notes: Lines for the user about what was read.
    """

    class_names: tuple[str, ...]
    train: Split
    val: Split | None
    class_titles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name, `train` and `val`; `val` is absent if there is none."""
        return {"train": self.train} | ({} if self.val is None else {"val": self.val})

    def check(self) -> None:
        """Validates the class names and the labels.

        Raises:
            ValueError: Class names are missing, equal or no text, or labels are unsorted, out of range or not int64.
        """
        import numpy as np

        names = self.class_names
        if not names or len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):
            raise ValueError("its class names must be distinct strings, at least one")
        for name in (*names, *self.class_titles):
            name.encode("utf-8")  # records, previews and exports hold it; raises a ValueError
        for name, split in self.splits.items():
            labels = split.labels
            if labels.dtype != np.int64 or labels.ndim != 1 or not len(labels) or (np.diff(labels) < 0).any():
                raise ValueError(f"the labels of {name} are not a sorted one-dimensional int64 array")
            if labels[0] < 0 or labels[-1] >= len(names):
                raise ValueError(f"the labels of {name} go from {labels[0]} to {labels[-1]}: {len(names)} classes")

    def fingerprint(self) -> str:
        """Computes a digest of the data. It does not depend on the location of the folder or on file times.

        It covers the order of the classes and the label, relative path, file size and content (SHA-256) of every image
        of both splits.

        Returns:
            32 hexadecimal digits.

        Raises:
            DDBenchError: A file cannot be read.
        """
        digest = hashlib.sha256(json.dumps([self.class_names, True]).encode())
        for name, split in self.splits.items():
            digest.update(f"\n{name}".encode())
            for line in split.identity():
                digest.update(b"\n" + line)
        return digest.hexdigest()[:32]


@dataclass(frozen=True)
class DatasetInfo:
    """The facts about a dataset, without its images.

    Attributes:
        name: Name of the dataset.
        class_names: Identifiers of the classes in label order.
        class_titles: Names of the classes for pictures and reports.
        train_counts: Number of training images of each class.
        val_counts: Number of validation images of each class.
        image_size: Side of the images that networks get, in pixels.
        fingerprint: `Source.fingerprint`.
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
        """Number of classes."""
        return len(self.class_names)


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset that can be selected by name. Register it with the hook `ddbench_datasets`.

    Attributes:
        name: Name on the command line.
        about: One line about the dataset.
        source: Citation.
        native_size: Side in pixels of the images in most papers on the dataset.
        open: Opens the dataset in a data folder (None: `default_data_dir()`), without network access.
        mean: Mean of the RGB values in [0, 1].
        std: Standard deviation of the RGB values in [0, 1].
        classes: Number of classes of the complete dataset. None: depends on the user's folder.
        train_size: Number of training images. None: depends on the user's folder.
        val_size: Number of validation images. None: depends on the user's folder.
        layout: The expected content of the data folder, for messages.
        download: Where the dataset is published, for messages.
        fetch: Downloads the dataset into a data folder atomically. None: the dataset cannot be downloaded or needs no
            files.

    Example:
        Noise images of two classes:

            from ddbench.api import DatasetSpec, Source, hookimpl


            def open_noise(data_dir):
                import numpy as np
                from ddbench.data import ArraySplit

                def split(seed):
                    pixels = np.random.default_rng(seed).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
                    return ArraySplit(pixels, np.repeat([0, 1], 10))

                return Source(("left", "right"), train=split(0), val=split(1))


            @hookimpl
            def ddbench_datasets():
                return [DatasetSpec("noise", "random pixels", "an example", native_size=16, open=open_noise)]
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
    """Returns the folder for downloads, which is also searched if no data folder is given."""
    return user_cache_dir() / "data"
