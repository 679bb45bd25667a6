"""A dataset: names and counts, the decoded images of both splits, and their normalisation."""

from __future__ import annotations

import contextlib
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddbench.api.dataset import DatasetInfo, DatasetSpec, Report, Source, Split
from ddbench.augment import crops
from ddbench.config.datasets import HUB_PREFIX, recorded_name
from ddbench.config.schema import DataConfig
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.data.content import read_digests
from ddbench.data.decode import DECODE_VERSION, READABLE_VERSION
from ddbench.data.folders import VALIDATION_PARTS
from ddbench.data.holdout import HOLDOUT_VERSION, ImageSubset, hold_out
from ddbench.data.images import Images, decode_image, is_cached, load_images
from ddbench.data.registry import open_source
from ddbench.data.source import ArraySplit, EncodedSplit
from ddbench.storage.cache import Cache

__all__ = ["Dataset", "DatasetInfo", "Images", "load_dataset"]


class Dataset:
    """The real data. Implements `ddbench.api.context.RealData`.

    The first access to an image decodes both splits, or finds them in the cache. A corrupt validation image is
    therefore reported before anything is trained. With `holdout`, `train` holds the remaining training images and `val`
    the held-out ones, and the validation images are not used.

    Args:
        spec: The dataset's specification.
        source: The opened images with their fingerprint.
        config: Sizes, resize filter, fraction that is held out.
        cache: The cache of decoded images.
        report: Called with progress events.

    Attributes:
        name: The name in records.
        mean: float32 [3], of pixel values in [0, 1].
        std: float32 [3], of pixel values in [0, 1].
        depends_on: Everything that both splits depend on, for cache keys.
        made_from: The content digests of the artifacts that were read so far, by name.
    """

    def __init__(self, spec: DatasetSpec, source: Source, config: DataConfig, cache: Cache, report: Report) -> None:
        self.config = config
        self.mean = torch.tensor(config.mean or spec.mean)
        self.std = torch.tensor(config.std or spec.std)
        self.made_from: dict[str, str] = {}
        self._skipped: dict[str, dict[str, int]] = {}
        self._source = source
        self._cache = cache
        self._report = report
        self._fingerprint = source.fingerprint()
        self.name = recorded_name(spec.name, self._fingerprint)
        # `split` and `holdout` select from the stored pixels, which do not depend on them. Mean and standard deviation
        # are beside `depends_on` in every key.
        self._pixels_depend_on: dict[str, Any] = {
            "version": DECODE_VERSION,
            "fingerprint": self._fingerprint,
            **config.model_dump(mode="json", exclude={"image_size", "holdout", "split", "mean", "std"}),
            **({"readable": READABLE_VERSION} if config.skip_corrupt else {}),
        }
        shares = {"split": config.split, "holdout": config.holdout}
        selected = {name: [share, HOLDOUT_VERSION] for name, share in shares.items() if share}
        self.depends_on: dict[str, Any] = {**self._pixels_depend_on, **selected}

    @cached_property
    def info(self) -> DatasetInfo:
        """Names and counts. With `skip_corrupt` the images are decoded first, and corrupt images are not counted."""
        source = self._source
        kept, measured, positions = self._chosen
        train, val = source.train.labels[kept], measured.labels[positions]
        classes = len(source.class_names)
        return DatasetInfo(
            name=self.name,
            class_names=source.class_names,
            class_titles=source.class_titles or source.class_names,
            train_counts=tuple(np.bincount(train, minlength=classes).tolist()),
            val_counts=tuple(np.bincount(val, minlength=classes).tolist()),
            image_size=self.config.image_size,
            fingerprint=self._fingerprint,
        )

    @cached_property
    def _chosen(self) -> tuple[NDArray[np.int64], Split, NDArray[np.int64]]:
        """The positions of the training images; split and positions of the images that accuracy is measured on."""
        source = self._source
        if self.config.skip_corrupt:
            kept, measured = self.train.positions, self.val.positions
        else:
            kept, drawn = self._select(torch.from_numpy(source.train.labels))
            measured = torch.arange(len(self._measured_split.labels)) if drawn is None else drawn
        return kept.numpy(), self._measured_split, measured.numpy()

    @property
    def _measured_split(self) -> Split:
        source = self._source
        return source.train if source.val is None or self.config.holdout else source.val

    @cached_property
    def measured_in_train(self) -> int | None:
        """How many of the images that accuracy is measured on have the content of a training image. None: unknown."""
        kept, measured, positions = self._chosen
        train = self._source.train
        if not (isinstance(train, EncodedSplit | ArraySplit) and isinstance(measured, EncodedSplit | ArraySplit)):
            return None  # images of a plugin's own kind
        known = {digest.tobytes() for digest in train.digests[kept]}
        return sum(digest.tobytes() in known for digest in measured.digests[positions])

    @property
    def skipped(self) -> dict[str, dict[str, int]]:
        """The numbers of corrupt images that were skipped, by split and reason."""
        if self.config.skip_corrupt:
            self.decode()
        return self._skipped

    @cached_property
    def _images(self) -> tuple[Images, Images]:
        train = self._decoded("train", self._source.train)
        kept, drawn = self._select(train.labels)
        if drawn is None:
            return train, self._decoded("val", self._measured_split)
        return ImageSubset(train, kept), ImageSubset(train, drawn)

    def decode(self) -> None:
        """Decodes both splits, or opens them if the cache holds them."""
        _ = self._images

    def decode_some(self, count: int) -> list[int]:
        """Decodes some training images without storing them, to measure the time. Returns the bytes of each."""
        split = self._source.train
        indices = np.unique(np.linspace(0, len(split.labels) - 1, count).astype(int)).tolist()
        sizes = []
        for index in indices:
            with contextlib.suppress(DDBenchError):  # a run reports corrupt images, or skips them
                sizes.append(decode_image(split, index, self.config).nbytes)
        return sizes

    def is_decoded(self) -> bool:
        """Whether both splits are open, or the cache holds them."""
        if "_images" in self.__dict__:
            return True
        names = ("train",) if self._measured_split is self._source.train else ("train", "val")
        return all(is_cached(name, self._pixels_depend_on, self._cache) for name in names)

    def _decoded(self, name: str, split: Split) -> Images:
        images = load_images(name, split, self._pixels_depend_on, self.config, self._cache, self._report)
        counts = torch.bincount(images.labels, minlength=len(self._source.class_names))
        if not bool(counts.all()):
            empty = self._source.class_names[int(counts.argmin())]
            raise DDBenchError(f"no readable image of class '{empty}' is left in {name}")
        self.made_from |= images.made_from
        if images.skipped:
            self._skipped[name] = images.skipped
        return images

    def _select(self, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the rows that train, and those that accuracy is measured on (None: the split `val`)."""
        kept, drawn = torch.arange(len(labels)), None
        settings: tuple[tuple[Literal["split", "holdout"], float], ...] = (
            ("split", self.config.split),
            ("holdout", self.config.holdout),
        )
        for setting, share in settings:
            if share:
                remaining, held_out = hold_out(labels[kept], self._source.class_names, share, setting)
                kept, drawn = kept[remaining], kept[held_out]
        return kept, drawn

    @property
    def train(self) -> Images:
        """The training images, without those that are held out."""
        return self._images[0]

    @property
    def val(self) -> Images:
        """The images that accuracy is measured on: the validation images, or the held-out training images."""
        return self._images[1]

    @property
    def is_gray(self) -> bool:
        """Whether the three channels are normalised alike, so that gray images remain gray."""
        return all(bool((values == values[0]).all()) for values in (self.mean, self.std))

    def normalise(self, pixels: Tensor) -> Tensor:
        """Normalises pixels with the dataset's mean and standard deviation.

        Args:
            pixels: uint8, or float in [0, 1], [B, 3, H, W].

        Returns:
            float32 [B, 3, H, W], on the same device.
        """
        return crops.normalise(pixels, self.mean.to(pixels.device), self.std.to(pixels.device))

    def evaluation_view(self, split: Literal["train", "val"], indices: Tensor) -> Tensor:
        """Reads and normalises the evaluation view: the central `image_size` pixels.

        Args:
            split: `train` or `val`.
            indices: int64 [B].

        Returns:
            float32 [B, 3, S, S].
        """
        images = self.train if split == "train" else self.val
        return self.normalise(images.centre(indices, self.config.image_size))


def _ignore(event: Event) -> None:
    """The default callback: does nothing."""


def load_dataset(
    spec: DatasetSpec,
    config: DataConfig,
    data_dir: Path | None,
    cache: Cache,
    report: Report | None = None,
    *,
    download: bool = True,
) -> Dataset:
    """Finds and fingerprints the files of a dataset. It does not decode them.

    Args:
        spec: The dataset's specification.
        config: Sizes, resize filter, fraction that is held out.
        data_dir: The data folder; it is never written to. None: the default folder.
        cache: The cache of decoded images.
        report: Called with progress events.
        download: Whether missing files are downloaded, if `data_dir` is None.

    Returns:
        The dataset.

    Raises:
        DDBenchError: Files are missing, unreadable or not in the expected layout. Or `spec` is the image folder of a
            record, and the files differ from those of the record.
        ValueError: The dataset of a plugin has invalid labels or class names.
    """
    report = report or _ignore
    source = open_source(spec, data_dir, report, download)
    source.check()
    _check_split(spec.name, source, config)
    read_digests(source, cache.root, report, verify="data" in cache.forced)
    for note in source.notes:
        report(Event("note", "data", message=note))
    return Dataset(spec, source, config, cache, report)


def _check_split(name: str, source: Source, config: DataConfig) -> None:
    if source.val is None and not (config.split or config.holdout):
        kind, end = ("split", "") if name.startswith(HUB_PREFIX) else ("folder", "/")
        raise DDBenchError(
            f"{name} has no validation images (no {kind} {', '.join(f'{part}{end}' for part in VALIDATION_PARTS)}); "
            "take them from the training images with --set data.split=0.2"
        )
    if source.val is not None and config.split:
        raise DDBenchError(f"data.split {config.split}: {name} has validation images of its own; leave data.split out")
