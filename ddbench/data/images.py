"""The images of a split at their stored size: from the cache of decoded images, or decoded at every access."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddbench.api.dataset import Report, Split
from ddbench.config.schema import DataConfig
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.data.decode import CorruptImage, Pixels, parallel_map, stored_shape, to_stored
from ddbench.data.source import EncodedSplit
from ddbench.storage.artifacts import Artifact, Built, digest_of
from ddbench.storage.cache import Cache

MAX_CACHED_BYTES = 8 * 1024**3
"""The largest split that is cached."""
_REPORT_EVERY = 500


class Images:
    """The images of a split, uint8. Their short side is the stored size; their shapes may differ.

    Args:
        labels: int64 [n], sorted.
        sizes: int64 [n, 2], height and width of each image in pixels.
        positions: int64 [n], the position of each image in its split.

    Attributes:
        made_from: The name and the content digest of the artifact that holds the images. Empty if the images are
            decoded from files, or if an older version of ddbench made the artifact.
        skipped: The number of corrupt images of the split that were skipped, by reason.
    """

    def __init__(self, labels: Tensor, sizes: Tensor, positions: Tensor) -> None:
        self.labels = labels
        self.sizes = sizes
        self.positions = positions
        self.made_from: dict[str, str] = {}
        self.skipped: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def shape(self) -> tuple[int, int] | None:
        """The height and width of all images; None if they differ."""
        first = self.sizes[0]
        return (int(first[0]), int(first[1])) if bool((self.sizes == first).all()) else None

    def of_class(self, label: int) -> Tensor:
        """Returns the indices of the images of class `label`, int64, ascending."""
        bounds = torch.searchsorted(self.labels, torch.tensor([label, label + 1]))
        return torch.arange(int(bounds[0]), int(bounds[1]))

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Reads images.

        Args:
            indices: int64 [B].

        Returns:
            The images, uint8 [B, 3, H, W], and their sizes, int64 [B, 2] (height, width). H and W are the largest
            height and width; smaller images are padded with 0 at the bottom and the right.

        Raises:
            DDBenchError: A file cannot be decoded.
        """
        sizes = self.sizes[indices]
        height, width = sizes.amax(0).tolist() if len(sizes) else (0, 0)
        out = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
        for row, image in zip(out, self._iterate(indices), strict=True):
            row[:, : image.shape[1], : image.shape[2]] = image
        return out, sizes

    def centre(self, indices: Tensor, size: int) -> Tensor:
        """Reads the evaluation view: the central pixels, as torchvision's CenterCrop selects them.

        Args:
            indices: int64 [B].
            size: Height and width of the view in pixels.

        Returns:
            uint8 [B, 3, size, size].

        Raises:
            DDBenchError: `size` exceeds the stored size, or a file cannot be decoded.
        """
        out = torch.empty(len(indices), 3, size, size, dtype=torch.uint8)
        for row, image in zip(out, self._iterate(indices), strict=True):
            row.copy_(_centre(image, size))
        return out

    def _iterate(self, indices: Tensor) -> Iterable[Tensor]:
        """Yields the images, uint8 [3, h, w], in the order of `indices`."""
        raise NotImplementedError


def _centre(image: Tensor, size: int) -> Tensor:
    height, width = image.shape[-2:]
    if size > min(height, width):
        raise DDBenchError(f"a view of {size} x {size} does not fit into images stored at {width} x {height}")
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[..., top : top + size, left : left + size]


class CachedImages(Images):
    """Images in the cache. A flat, memory-mapped uint8 tensor holds each image [3, h, w] at an offset.

    Args:
        labels: int64 [n], sorted.
        sizes: int64 [n, 2].
        positions: int64 [n].
        artifact: The artifact with the tensors `pixels` and `offsets`.
    """

    def __init__(self, labels: Tensor, sizes: Tensor, positions: Tensor, artifact: Artifact) -> None:
        super().__init__(labels, sizes, positions)
        self._pixels = artifact.tensors["pixels"]
        self._offsets = artifact.tensors["offsets"].clone()
        if "content" in artifact.meta:
            self.made_from = {artifact.name: artifact.content}

    def _stacked(self) -> Tensor | None:
        """All images [n, 3, H, W] without a copy; None if their shapes differ."""
        return self._pixels.view(len(self), 3, *self.shape) if self.shape else None

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Implements `Images.read` with one indexing operation if all images have the same shape."""
        images = self._stacked()
        return super().read(indices) if images is None else (images[indices], self.sizes[indices])

    def centre(self, indices: Tensor, size: int) -> Tensor:
        """Implements `Images.centre` with one indexing operation if all images have the same shape."""
        images = self._stacked()
        return super().centre(indices, size) if images is None else _centre(images, size)[indices].contiguous()

    def _iterate(self, indices: Tensor) -> Iterator[Tensor]:
        for offset, (height, width) in zip(self._offsets[indices].tolist(), self.sizes[indices].tolist(), strict=True):
            yield self._pixels[offset : offset + 3 * height * width].view(3, height, width)


class FileImages(Images):
    """Images that are decoded in threads at every access, because the split is too large for the cache.

    The tensors are the same as those of `CachedImages`.

    Args:
        labels: int64 [n], sorted.
        sizes: int64 [n, 2].
        positions: int64 [n].
        split: The files.
        config: Stored size and resize filter.
    """

    def __init__(self, labels: Tensor, sizes: Tensor, positions: Tensor, split: Split, config: DataConfig) -> None:
        super().__init__(labels, sizes, positions)
        self._split = split
        self._config = config

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=os.cpu_count() or 1)

    def _decode(self, index: int) -> Tensor:
        return torch.from_numpy(decode_image(self._split, index, self._config).copy())

    def _iterate(self, indices: Tensor) -> Iterator[Tensor]:
        return self._pool.map(self._decode, self.positions[indices].tolist())


def decode_image(split: Split, index: int, config: DataConfig) -> Pixels:
    """Decodes an image at its stored size.

    Args:
        split: The source of the image.
        index: The position of the image in the split.
        config: Stored size and resize filter.

    Raises:
        DDBenchError: The image is corrupt. The message names it.
    """
    try:
        return to_stored(split.image(index), config.stored_size, config.resize)
    except CorruptImage as error:
        raise _corrupt(split, index, str(error)) from error


def _corrupt(split: Split, index: int, reason: str) -> DDBenchError:
    return DDBenchError(
        f"{split.name(index)} cannot be decoded: {reason}; remove or replace it, "
        "or leave such images out with --set data.skip_corrupt=true"
    )


def load_images(
    name: str,
    split: Split,
    depends_on: Mapping[str, Any],
    config: DataConfig,
    cache: Cache,
    report: Report,
) -> Images:
    """Loads a split from the cache, or decodes it into the cache. Splits above `MAX_CACHED_BYTES` are not cached.

    The stage "data" has two artifacts. The first lists the kept images with their sizes, which are read from the
    headers; with `skip_corrupt` every image is decoded to find the corrupt ones. The second holds the pixels.

    Args:
        name: `train` or `val`.
        split: The source of the images.
        depends_on: Fingerprint and sizes, for the cache keys.
        config: Stored size, resize filter, and whether corrupt images are skipped.
        cache: The cache.
        report: Called with progress events.

    Returns:
        The images.

    Raises:
        DDBenchError: An image is corrupt, and `skip_corrupt` is false. The message names the image.
    """
    sizes_depend_on = {**depends_on, "split": name, "part": "sizes"}
    listed = cache.get("data", sizes_depend_on, lambda _: _list_images(name, split, config, report))
    if skipped := listed.meta["skipped"]:
        report(_skipped_event(name, split, skipped))
    if deep := listed.meta.get("deep"):
        report(Event("note", "data", name, message=_deep_text(name, deep)))
    images = _open_images(name, split, listed, depends_on, config, cache, report)
    images.skipped = dict(Counter(reason for _, reason in skipped))
    return images


def _open_images(
    name: str,
    split: Split,
    listed: Artifact,
    depends_on: Mapping[str, Any],
    config: DataConfig,
    cache: Cache,
    report: Report,
) -> Images:
    kept, sizes = listed.tensors["kept"].clone(), listed.tensors["sizes"].clone()
    labels = torch.from_numpy(split.labels)[kept]
    if 3 * int(sizes.prod(1).sum()) > MAX_CACHED_BYTES:
        return FileImages(labels, sizes, kept, split, config)
    pixels_depend_on = {**depends_on, "split": name, "part": "pixels"}
    if cache.has("data", pixels_depend_on):
        report(Event("cached", "data", name))
    pixels = cache.get("data", pixels_depend_on, lambda _: _decode_split(name, split, kept, sizes, config, report))
    return CachedImages(labels, sizes, kept, pixels)


def is_cached(name: str, depends_on: Mapping[str, Any], cache: Cache) -> bool:
    """Checks whether the cache holds the decoded pixels of a split.

    Args:
        name: `train` or `val`.
        depends_on: Fingerprint and sizes, for the cache keys.
        cache: The cache.
    """
    return cache.has("data", {**depends_on, "split": name, "part": "pixels"})


def _skipped_event(name: str, split: Split, skipped: list[tuple[int, str]]) -> Event:
    shown = "; ".join(f"{split.name(index)} ({reason})" for index, reason in skipped[:3])
    more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    images = "1 corrupt image" if len(skipped) == 1 else f"{len(skipped)} corrupt images"
    message = f"skipped {images} of {name}: {shown}{more}"
    return Event("note", "data", name, metrics={"skipped": float(len(skipped))}, message=message)


def _deep_text(name: str, count: int) -> str:
    images = "1 image" if count == 1 else f"{count} images"
    return f"{images} of {name} above 8 bits per channel: the range of the bit depth is scaled to 0 to 255"


def _list_images(name: str, split: Split, config: DataConfig, report: Report) -> Built:
    """Builds the artifact of the kept images and their sizes."""

    def stored_size(index: int) -> tuple[int, int] | CorruptImage:
        try:
            if config.skip_corrupt:
                image = split.image(index)
                return stored_shape(image.height, image.width, config.stored_size)
            return stored_shape(*split.shape(index), config.stored_size)
        except CorruptImage as error:
            return error

    kept, sizes, skipped = [], [], []
    count = len(split.labels)
    unit = f"{name} (reading sizes)"
    report(Event("started", "data", unit, total=count))
    for index, size in enumerate(parallel_map(stored_size, count)):
        if not isinstance(size, CorruptImage):
            kept.append(index)
            sizes.append(size)
        elif config.skip_corrupt:
            skipped.append((index, str(size)))
        else:
            raise _corrupt(split, index, str(size))
        if (index + 1) % _REPORT_EVERY == 0:
            report(Event("step", "data", unit, index + 1, count, counted="image"))
    if not kept:
        raise _corrupt(split, *skipped[0])
    report(Event("finished", "data", unit, count, count))
    return {"kept": torch.tensor(kept), "sizes": torch.tensor(sizes)}, {
        "skipped": skipped,
        "deep": len(split.deep) if isinstance(split, EncodedSplit) else 0,
    }


def _decode_split(name: str, split: Split, kept: Tensor, sizes: Tensor, config: DataConfig, report: Report) -> Built:
    """Builds the artifact of the pixels."""
    lengths = 3 * sizes.prod(1)
    offsets = lengths.cumsum(0) - lengths
    flat = np.empty(int(lengths.sum()), dtype=np.uint8)
    images = list(zip(kept.tolist(), offsets.tolist(), sizes.tolist(), strict=True))

    def fill(position: int) -> None:
        index, offset, (height, width) = images[position]
        pixels = decode_image(split, index, config)
        if pixels.shape != (3, height, width):
            raise _corrupt(split, index, "the size in its header differs from its content")
        flat[offset : offset + pixels.size] = pixels.ravel()

    report(Event("started", "data", name, total=len(images)))
    for done, _ in enumerate(parallel_map(fill, len(images)), 1):
        if done % _REPORT_EVERY == 0:
            report(Event("step", "data", name, done, len(images), counted="image"))
    report(Event("finished", "data", name, len(images), len(images)))
    tensors = {
        "pixels": torch.from_numpy(flat),
        "sizes": sizes,
        "offsets": offsets,
        "labels": torch.from_numpy(split.labels)[kept],
    }
    return tensors, {"content": digest_of(tensors)}
