"""Reads the distilled set of a record from the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ddbench.config.schema import DataConfig
from ddbench.core.errors import DDBenchError

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.data.dataset import Dataset
    from ddbench.results.records import Record
    from ddbench.storage.cache import Cache

OpenDataset = Callable[[str, DataConfig], "Dataset"]
"""Opens the real images of a set by name and configuration."""


@dataclass(frozen=True)
class StoredSet:
    """A distilled set in the cache.

    Attributes:
        images: uint8, or float32 with 0 for black and 1 for white, [m, 3, S, S].
        labels: int64 [m].
        weights: Weights of the images in the loss, float32 [m].
        class_names: Names of the classes, by label.
        extras: Soft labels, learning rate and decoder; see `ddbench.distillation.units.EXTRAS`.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor
    class_names: Sequence[str]
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the set: `images`, `labels`, `weights`, and the extras."""
        return {"images": self.images, "labels": self.labels, "weights": self.weights, **self.extras}

    def decoded(self) -> StoredSet:
        """Returns the images that students are trained on; see `ddbench.distillation.distilled_set.decode`."""
        from ddbench.distillation.distilled_set import decode

        return _of_parts(decode(self.tensors), self.class_names)


def required_set(record: Record, cache: Cache, open_dataset: OpenDataset) -> StoredSet:
    """Reads the distilled set of a record from the cache, as `stored_set`.

    Raises:
        DDBenchError: The set is no longer in the cache, or as in `stored_set`.
    """
    stored = stored_set(record, cache, open_dataset)
    if stored is None:
        raise DDBenchError(f"the distilled set of {record.name} is no longer in the cache: run it again")
    return stored


def stored_set(record: Record, cache: Cache, open_dataset: OpenDataset) -> StoredSet | None:
    """Reads the distilled set of a record from the cache.

    Args:
        record: The record.
        cache: The cache.
        open_dataset: Opens a dataset by name and configuration. Used for sets of real images.

    Returns:
        The set, or None if it is no longer in the cache.

    Raises:
        DDBenchError: If the set in the cache differs from the record's, because it was computed again or because the
            real images changed, or if it is not a distilled set.
    """
    from ddbench.distillation.distilled_set import assemble

    stored = _stored_parts(record, cache)
    if stored is None:
        return None
    units, parts, class_names = stored
    if "images" in parts:
        return _of_parts(parts, class_names)
    name = record.configuration["dataset"]
    dataset = open_dataset(name, DataConfig(**record.configuration["data"]))
    distilled = assemble(dataset, units, (), record.method)
    if distilled.digest != record.distilled_digest:
        raise DDBenchError(f"the images of {name} are no longer the images of {record.name}")
    return _of_parts({**parts, **distilled.tensors, "images": distilled.images}, class_names)


def stored_images(record: Record, cache: Cache) -> StoredSet | None:
    """Reads the distilled set of a record from the cache, as `stored_set`; None for a set of real images."""
    stored = _stored_parts(record, cache)
    return _of_parts(*stored[1:]) if stored and "images" in stored[1] else None


def _stored_parts(record: Record, cache: Cache) -> tuple[list[dict[str, Tensor]], dict[str, Tensor], list[str]] | None:
    """The tensors of each unit, those of the set, and the names of its classes."""
    from ddbench.distillation.distilled_set import joined, set_digest

    keys = record.keys.get("distill", [])
    units = [unit for unit in (cache.read("distill", key) for key in keys) if unit is not None]
    if not units or len(units) < len(keys):
        return None
    class_names = units[0].meta.get("classes")
    if not isinstance(class_names, list) or not all(isinstance(name, str) for name in class_names):
        raise DDBenchError(f"the distilled set of {record.name} in the cache has no class names")
    tensors = [dict(unit.tensors) for unit in units]
    parts = joined(tensors, len(class_names))
    if "images" in parts and set_digest(parts) != record.distilled_digest:
        raise DDBenchError(f"the set in the cache is no longer the set of {record.name}: run it again")
    return tensors, parts, class_names


def _of_parts(parts: Mapping[str, Tensor], class_names: Sequence[str]) -> StoredSet:
    from ddbench.distillation.units import extras_in

    return StoredSet(parts["images"], parts["labels"], parts["weights"], class_names, extras_in(parts))
