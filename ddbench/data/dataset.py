"""A dataset as stages and methods see it: names and counts, decoded images of both splits, normalisation."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ddbench.api.dataset import DatasetInfo, DatasetSpec, Report, Source, Split
from ddbench.augment import crops
from ddbench.config.schema import DataConfig
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.data.decode import DECODE_VERSION
from ddbench.data.holdout import HOLDOUT_VERSION, ImageSubset, hold_out
from ddbench.data.images import Images, is_cached, load_images
from ddbench.data.registry import open_source
from ddbench.storage.cache import Cache

__all__ = ["Dataset", "DatasetInfo", "Images", "load_dataset"]


class Dataset:
    """The real data, class-wise.

    Images are decoded (or found in the cache) when the first one is asked for, both splits at once, so that a
    bad validation image shows before anything is trained. With `holdout`, `train` and `val` are the training
    images that stay and those that are held out; the validation images are not touched. `mean`, `std` float32
    [3], of pixel values in [0, 1]. `depends_on` is what both splits depend on, for keys; `made_from`, by name, the
    contents of the artifacts that were read so far.
    """

    def __init__(self, spec: DatasetSpec, source: Source, config: DataConfig, cache: Cache, report: Report) -> None:
        self.config = config
        self.mean = torch.tensor(spec.mean)
        self.std = torch.tensor(spec.std)
        self.made_from: dict[str, str] = {}
        self._name = spec.name
        self._source = source
        self._cache = cache
        self._report = report
        self._fingerprint = source.fingerprint()
        # What is held out selects among the stored pixels and does not change them.
        self._pixels_depend_on: dict[str, Any] = {
            "version": DECODE_VERSION,
            "fingerprint": self._fingerprint,
            **config.model_dump(mode="json", exclude={"image_size", "holdout"}),
        }
        selected = {"holdout": [config.holdout, HOLDOUT_VERSION]} if config.holdout else {}
        self.depends_on: dict[str, Any] = {**self._pixels_depend_on, **selected}

    @cached_property
    def info(self) -> DatasetInfo:
        """Names and counts. With `skip_corrupt` the images are decoded first: what is left is counted."""
        source = self._source
        if self.config.skip_corrupt:
            train, val = self.train.labels.numpy(), self.val.labels.numpy()
        else:
            train, val = source.train.labels, source.val.labels
            if self.config.holdout:
                kept, held = self._hold_out(torch.from_numpy(train))
                train, val = train[kept.numpy()], train[held.numpy()]
        classes = len(source.class_names)
        return DatasetInfo(
            name=self._name,
            class_names=source.class_names,
            class_titles=source.class_titles or source.class_names,
            train_counts=tuple(np.bincount(train, minlength=classes).tolist()),
            val_counts=tuple(np.bincount(val, minlength=classes).tolist()),
            image_size=self.config.image_size,
            fingerprint=self._fingerprint,
        )

    @cached_property
    def _images(self) -> tuple[Images, Images]:
        train = self._decoded("train", self._source.train)
        if not self.config.holdout:
            return train, self._decoded("val", self._source.val)
        kept, held = self._hold_out(train.labels)
        return ImageSubset(train, kept), ImageSubset(train, held)

    def decode(self) -> None:
        """Decodes both splits, or opens them where they are decoded."""
        _ = self._images

    def is_decoded(self) -> bool:
        """Returns whether the cache holds both splits, or they are opened already."""
        if "_images" in self.__dict__:
            return True
        names = ("train",) if self.config.holdout else ("train", "val")
        return all(is_cached(name, self._pixels_depend_on, self._cache) for name in names)

    def _decoded(self, name: str, split: Split) -> Images:
        images = load_images(name, split, self._pixels_depend_on, self.config, self._cache, self._report)
        counts = torch.bincount(images.labels, minlength=len(self._source.class_names))
        if not bool(counts.all()):
            empty = self._source.class_names[int(counts.argmin())]
            raise DDBenchError(f"no readable image of class '{empty}' is left in {name}")
        self.made_from |= images.made_from
        return images

    def _hold_out(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        return hold_out(labels, self._source.class_names, self.config.holdout)

    @property
    def train(self) -> Images:
        """The training images, without those that are held out."""
        return self._images[0]

    @property
    def val(self) -> Images:
        """The images to measure on: the validation images, or the training images that are held out."""
        return self._images[1]

    def normalise(self, pixels: Tensor) -> Tensor:
        """What networks see, float32 [B, 3, H, W] on the pixels' device, from uint8 or float in [0, 1]."""
        return crops.normalise(pixels, self.mean.to(pixels.device), self.std.to(pixels.device))

    def evaluation_view(self, split: Literal["train", "val"], indices: Tensor) -> Tensor:
        """Normalised float32 [B, 3, S, S]: the central `image_size` pixels of `indices` (int64 [B])."""
        images = self.train if split == "train" else self.val
        return self.normalise(images.centre(indices, self.config.image_size))


def _ignore(event: Event) -> None:
    """Tells nobody."""


def load_dataset(
    spec: DatasetSpec,
    config: DataConfig,
    data_dir: Path | None,
    cache: Cache,
    report: Report | None = None,
    *,
    download: bool = True,
) -> Dataset:
    """Finds and fingerprints a dataset's files; nothing is decoded yet.

    Where no `data_dir` is named they are fetched if need be, unless `download` is off. Raises DDBenchError,
    one line: files missing, unreadable, or not in the expected layout; ValueError for a source that is none.
    """
    report = report or _ignore
    source = open_source(spec, data_dir, report, download)
    source.check()
    return Dataset(spec, source, config, cache, report)
