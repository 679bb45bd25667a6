"""A distilled set: images or real-image indices, labels, weights; its digest and its uint8 form."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddbench.cache import canonical, digest_of
from ddbench.distiller import Unit, UnitResult
from ddbench.errors import DDBenchError

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset


@dataclass(frozen=True)
class DistilledSet:
    """What a method made: exactly one of `stored` images and `indices` of training images.

    `stored` is uint8 [m, 3, S, S], `indices` int64 [m]; `labels` int64 [m]; `weights` float32 [m], each class
    summing to 1; `keys` the cache keys of the units it was put together from.
    """

    dataset: Dataset
    labels: Tensor
    weights: Tensor
    keys: tuple[str, ...]
    stored: Tensor | None = None
    indices: Tensor | None = None

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    @cached_property
    def images(self) -> Tensor:
        """uint8 [m, 3, S, S]: what is exported is what is evaluated. Real images are their evaluation view."""
        if self.stored is not None:
            return self.stored
        assert self.indices is not None
        return self.dataset.train.centre(self.indices, self.dataset.config.image_size)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over images, labels and weights; for real images over their indices and what they point into."""
        body = self.stored if self.stored is not None else self.indices
        assert body is not None
        real = {**self.dataset.depends_on, "image_size": self.dataset.config.image_size}
        meta = canonical(real) if self.stored is None else ""
        return digest_of({"body": body, "labels": self.labels, "weights": self.weights}, meta)

    @property
    def image_bytes(self) -> int:
        """Bytes of the images as uint8."""
        return len(self) * 3 * self.dataset.config.image_size**2

    def part(self, rows: Tensor) -> DistilledSet:
        """The set of these images alone (int64 [n]), the weights of each class summing to 1 again.

        Raises DDBenchError where a class is left with no weight.
        """
        labels = self.labels[rows]
        return replace(
            self,
            labels=labels,
            weights=class_weights(labels, self.weights[rows]),
            stored=None if self.stored is None else self.stored[rows],
            indices=None if self.indices is None else self.indices[rows],
        )

    def head(self, per_class: int) -> tuple[Tensor, Tensor]:
        """The first `per_class` images of each class, and their labels: for a picture."""
        rank = torch.zeros_like(self.labels)
        for label in torch.unique(self.labels):
            mine = self.labels == label
            rank[mine] = torch.arange(int(mine.sum()))
        chosen = (rank < per_class).nonzero().squeeze(1)
        if self.stored is not None:
            return self.stored[chosen], self.labels[chosen]
        assert self.indices is not None
        size = self.dataset.config.image_size
        return self.dataset.train.centre(self.indices[chosen], size), self.labels[chosen]


def to_uint8(images: Tensor, jpeg_quality: int | None) -> Tensor:
    """Pixel values in [0, 1] (float [n, 3, H, W]) as uint8: rounded; or cut off and through JPEG, as released."""
    if jpeg_quality is None:
        return (images * 255.0).round().clamp(0, 255).to(torch.uint8).cpu()
    cut = (images * 255.0).clamp(0, 255).to(torch.uint8).cpu()
    return torch.stack([_through_jpeg(image, jpeg_quality) for image in cut])


def _through_jpeg(image: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer).convert("RGB"))).permute(2, 0, 1).contiguous()


def check_units(units: list[Unit], num_classes: int, ipc: int, method: str) -> None:
    """Refuses units that do not hold each of the IPC slots of every class exactly once. Raises DDBenchError."""
    slots = [(slot.label, slot.index) for unit in units for slot in unit.slots]
    if sorted(slots) != [(label, index) for label in range(num_classes) for index in range(ipc)]:
        raise DDBenchError(f"method '{method}' must make each of {ipc} images of {num_classes} classes once")


def check_result(result: UnitResult, unit: Unit, dataset: Dataset, method: str) -> None:
    """Refuses what a method must not hand back. Raises DDBenchError naming the method and what is wrong."""
    count, size = len(unit.slots), dataset.config.image_size
    if (result.images is None) == (result.indices is None):
        raise DDBenchError(f"method '{method}' must return either images or indices for unit {unit.index}")
    if result.images is not None:
        if tuple(result.images.shape) != (count, 3, size, size):
            raise DDBenchError(
                f"method '{method}' returned images of shape {tuple(result.images.shape)} for unit {unit.index}; "
                f"expected {(count, 3, size, size)}"
            )
        low, high = float(result.images.min()), float(result.images.max())
        if not (low >= -1e-4 and high <= 1 + 1e-4):
            raise DDBenchError(f"method '{method}' returned pixels outside [0, 1] (from {low:g} to {high:g})")
    if result.indices is not None:
        if result.indices.dtype != torch.int64 or result.indices.ndim != 1:
            raise DDBenchError(f"method '{method}' returned indices that are not a list of int64")
        inside = (result.indices >= 0) & (result.indices < len(dataset.train))
        if not bool(inside.all()):
            raise DDBenchError(f"method '{method}' returned indices outside the training set")
        if unit.slots:
            labels = torch.tensor([slot.label for slot in unit.slots])
            if result.indices.shape != labels.shape or bool((dataset.train.labels[result.indices] != labels).any()):
                raise DDBenchError(f"method '{method}' returned real images of another class than the slot's")
    if result.weights is not None and (
        result.weights.shape != (count,) or not bool((result.weights >= 0).all() & result.weights.isfinite().all())
    ):
        raise DDBenchError(f"method '{method}' returned weights that are not one number >= 0 a slot")


def assemble(
    dataset: Dataset, units: Sequence[Mapping[str, Tensor]], keys: tuple[str, ...], method: str
) -> DistilledSet:
    """The set whose units hold these tensors (`labels`, `images` or `indices`, maybe `weights`), in this order.

    Raises DDBenchError naming the method where the units do not hold the same, or a class has no weight.
    """
    if any(unit.keys() != units[0].keys() for unit in units):
        raise DDBenchError(f"method '{method}' must return images, or indices, and weights for all units or for none")
    parts = {name: torch.cat([unit[name] for unit in units]) for name in units[0]}
    try:
        weights = class_weights(parts["labels"], parts.get("weights"))
    except DDBenchError as error:
        raise DDBenchError(f"method '{method}': {error}") from error
    return DistilledSet(dataset, parts["labels"], weights, keys, parts.get("images"), parts.get("indices"))


def class_weights(labels: Tensor, weights: Tensor | None) -> Tensor:
    """Weights scaled so that each class sums to 1 (float32 [m]); uniform where `weights` is None.

    Raises DDBenchError where a class has no weight at all.
    """
    raw = torch.ones(labels.shape[0], dtype=torch.float64) if weights is None else weights.double()
    sums = torch.zeros(int(labels.max()) + 1, dtype=torch.float64).index_add_(0, labels, raw)
    if bool((sums[labels] <= 0).any()):
        raise DDBenchError("the weights of a class sum to zero; every class needs an image that counts")
    return (raw / sums[labels]).float()
