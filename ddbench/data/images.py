"""The images of one split at their stored size: from the decoded cache, or decoded anew at every reading."""

import os
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
from ddbench.storage.cache import Artifact, Built, Cache, digest_of

MAX_CACHED_BYTES = 8 * 1024**3
_STEP = 500


class Images:
    """One split: uint8 images whose short side is the stored size, so their shapes may differ.

    `labels` int64 [n], sorted; `sizes` int64 [n, 2], height and width of each image in pixels. `made_from`: the name
    and the content of the artifact that they are read from, where it tells it.
    """

    def __init__(self, labels: Tensor, sizes: Tensor) -> None:
        self.labels = labels
        self.sizes = sizes
        self.made_from: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def shape(self) -> tuple[int, int] | None:
        """Height and width that all images share, or None."""
        first = self.sizes[0]
        return (int(first[0]), int(first[1])) if bool((self.sizes == first).all()) else None

    def of_class(self, label: int) -> Tensor:
        """int64 indices of the images of class `label`, ascending."""
        bounds = torch.searchsorted(self.labels, torch.tensor([label, label + 1]))
        return torch.arange(int(bounds[0]), int(bounds[1]))

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 [B, 3, H, W] and their sizes int64 [B, 2] (height, width).

        Zero-padded below and to the right to the largest of the batch. `indices` int64 [B]. Raises
        DDBenchError for a file that cannot be decoded.
        """
        sizes = self.sizes[indices]
        height, width = sizes.amax(0).tolist() if len(sizes) else (0, 0)
        out = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
        for place, image in zip(out, self._each(indices), strict=True):
            place[:, : image.shape[1], : image.shape[2]] = image
        return out, sizes

    def centre(self, indices: Tensor, size: int) -> Tensor:
        """The evaluation view: the central `size` x `size` pixels, uint8 [B, 3, size, size].

        The pixels that torchvision's CenterCrop takes. `indices` int64 [B]. Raises DDBenchError where `size`
        exceeds the stored size, or a file cannot be decoded.
        """
        out = torch.empty(len(indices), 3, size, size, dtype=torch.uint8)
        for place, image in zip(out, self._each(indices), strict=True):
            place.copy_(_centre(image, size))
        return out

    def _each(self, indices: Tensor) -> Iterable[Tensor]:
        """Images uint8 [3, h, w] in the order of `indices`."""
        raise NotImplementedError


def _centre(image: Tensor, size: int) -> Tensor:
    height, width = image.shape[-2:]
    if size > min(height, width):
        raise DDBenchError(f"a view of {size} x {size} does not fit into images stored at {width} x {height}")
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[..., top : top + size, left : left + size]


class CachedImages(Images):
    """Images of one artifact: in its flat uint8 tensor `pixels` (memory-mapped), each [3, h, w] at its offset."""

    def __init__(self, labels: Tensor, sizes: Tensor, found: Artifact) -> None:
        super().__init__(labels, sizes)
        self._pixels = found.tensors["pixels"]
        self._offsets = found.tensors["offsets"].clone()
        if "content" in found.meta:
            self.made_from = {found.name: found.content}

    def _all(self) -> Tensor | None:
        return self._pixels.view(len(self), 3, *self.shape) if self.shape else None

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        whole = self._all()
        return super().read(indices) if whole is None else (whole[indices], self.sizes[indices])

    def centre(self, indices: Tensor, size: int) -> Tensor:
        whole = self._all()
        return super().centre(indices, size) if whole is None else _centre(whole, size)[indices].contiguous()

    def _each(self, indices: Tensor) -> Iterator[Tensor]:
        places = zip(self._offsets[indices].tolist(), self.sizes[indices].tolist(), strict=True)
        for offset, (height, width) in places:
            yield self._pixels[offset : offset + 3 * height * width].view(3, height, width)


class FileImages(Images):
    """Images decoded at every reading, in threads: for a set too large for the cache.

    Gives the same tensors as CachedImages. `kept` int64 [n]: which images of the source these are.
    """

    def __init__(self, labels: Tensor, sizes: Tensor, kept: Tensor, split: Split, config: DataConfig) -> None:
        super().__init__(labels, sizes)
        self._kept = kept
        self._split = split
        self._config = config

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=os.cpu_count() or 1)

    def _one(self, index: int) -> Tensor:
        return torch.from_numpy(_stored(self._split, index, self._config).copy())

    def _each(self, indices: Tensor) -> Iterator[Tensor]:
        return self._pool.map(self._one, self._kept[indices].tolist())


def _stored(split: Split, index: int, config: DataConfig) -> Pixels:
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
    """One split's images, decoded once into the cache; above MAX_CACHED_BYTES decoded at every reading.

    Two artifacts of stage "data": which images are kept and their sizes (from headers; with `skip_corrupt`
    every image is decoded to see whether it can be), then the pixels. `depends_on`: fingerprint and sizes,
    for their keys. Raises DDBenchError naming the first corrupt image.
    """
    sizes_depend_on = {**depends_on, "split": name, "part": "sizes"}
    listed = cache.get("data", sizes_depend_on, lambda slot: _list(name, split, config, report))
    if skipped := listed.meta["skipped"]:
        report(_skip_note(name, split, skipped))
    kept, sizes = listed.tensors["kept"].clone(), listed.tensors["sizes"].clone()
    labels = torch.from_numpy(split.labels)[kept]
    if 3 * int(sizes.prod(1).sum()) > MAX_CACHED_BYTES:
        return FileImages(labels, sizes, kept, split, config)
    pixels_depend_on = {**depends_on, "split": name, "part": "pixels"}
    if cache.has("data", pixels_depend_on):
        report(Event("cached", "data", name))
    found = cache.get("data", pixels_depend_on, lambda slot: _decode(name, split, kept, sizes, config, report))
    return CachedImages(labels, sizes, found)


def is_cached(name: str, depends_on: Mapping[str, Any], cache: Cache) -> bool:
    """Returns whether the decoded pixels of a split are in the cache."""
    return cache.has("data", {**depends_on, "split": name, "part": "pixels"})


def _skip_note(name: str, split: Split, skipped: list[tuple[int, str]]) -> Event:
    shown = "; ".join(f"{split.name(index)} ({reason})" for index, reason in skipped[:3])
    more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    images = "1 corrupt image" if len(skipped) == 1 else f"{len(skipped)} corrupt images"
    message = f"skipped {images} of {name}: {shown}{more}"
    return Event("note", "data", name, metrics={"skipped": float(len(skipped))}, message=message)


def _list(name: str, split: Split, config: DataConfig, report: Report) -> Built:
    def look(index: int) -> tuple[int, int] | CorruptImage:
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
    for index, found in enumerate(parallel_map(look, count)):
        if not isinstance(found, CorruptImage):
            kept.append(index)
            sizes.append(found)
        elif config.skip_corrupt:
            skipped.append((index, str(found)))
        else:
            raise _corrupt(split, index, str(found))
        if (index + 1) % _STEP == 0:
            report(Event("step", "data", unit, index + 1, count))
    if not kept:
        raise _corrupt(split, *skipped[0])
    report(Event("finished", "data", unit, count, count))
    return {"kept": torch.tensor(kept), "sizes": torch.tensor(sizes)}, {"skipped": skipped}


def _decode(name: str, split: Split, kept: Tensor, sizes: Tensor, config: DataConfig, report: Report) -> Built:
    lengths = 3 * sizes.prod(1)
    offsets = lengths.cumsum(0) - lengths
    flat = np.empty(int(lengths.sum()), dtype=np.uint8)
    places = list(zip(kept.tolist(), offsets.tolist(), sizes.tolist(), strict=True))

    def fill(position: int) -> None:
        index, offset, (height, width) = places[position]
        pixels = _stored(split, index, config)
        if pixels.shape != (3, height, width):
            raise _corrupt(split, index, "its header tells another size than its content")
        flat[offset : offset + pixels.size] = pixels.ravel()

    report(Event("started", "data", name, total=len(places)))
    for done, _ in enumerate(parallel_map(fill, len(places)), 1):
        if done % _STEP == 0:
            report(Event("step", "data", name, done, len(places)))
    report(Event("finished", "data", name, len(places), len(places)))
    tensors = {
        "pixels": torch.from_numpy(flat),
        "sizes": sizes,
        "offsets": offsets,
        "labels": torch.from_numpy(split.labels)[kept],
    }
    return tensors, {"content": digest_of(tensors)}
