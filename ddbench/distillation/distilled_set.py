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

from ddbench.api.units import Unit, UnitResult
from ddbench.core.errors import DDBenchError
from ddbench.storage.cache import canonical_json, digest_of

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
        meta = canonical_json(real) if self.stored is None else ""
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


def check_units(units: list[Unit], num_classes: int, ipc: int, who: str) -> None:
    """Refuses units that do not hold each of the IPC slots of every class exactly once, or are not numbered in order.

    `who` begins the line: "method 'blur' of ddbench-blur". Raises DDBenchError.
    """
    slots = [(slot.label, slot.index) for unit in units for slot in unit.slots]
    if sorted(slots) != [(label, index) for label in range(num_classes) for index in range(ipc)]:
        raise DDBenchError(f"{who} must make each of {ipc} images of {num_classes} classes once")
    # A unit's number is in its key: two of one number would be one artifact.
    if [unit.index for unit in units] != list(range(len(units))):
        raise DDBenchError(f"{who} must number its {len(units)} units in order, from 0")


def check_result(result: object, unit: Unit, dataset: Dataset, who: str) -> UnitResult:
    """What a method handed back, images alone as a UnitResult; refuses what it must not be.

    Weights are float32 on the CPU then; the core scales them to a sum of 1 a class. Raises DDBenchError that begins
    with `who` and says what is wrong.
    """
    count, size = len(unit.slots), dataset.config.image_size
    if isinstance(result, Tensor):
        result = UnitResult(images=result)
    if not isinstance(result, UnitResult):
        raise DDBenchError(f"{who} returned {type(result).__name__} instead of images")
    images, indices, weights = result.images, result.indices, result.weights
    for name, value in (("images", images), ("indices", indices), ("weights", weights)):
        if not isinstance(value, Tensor | None):
            raise DDBenchError(f"{who} returned {name} that are no tensor but {type(value).__name__}")
    if (images is None) == (indices is None):
        raise DDBenchError(f"{who} must return either images or indices for unit {unit.index}")
    if images is not None:
        if tuple(images.shape) != (count, 3, size, size):
            raise DDBenchError(
                f"{who} returned images of shape {tuple(images.shape)} for unit {unit.index}; "
                f"expected {(count, 3, size, size)}"
            )
        low, high = (float(images.min()), float(images.max())) if count else (0.0, 0.0)
        if not (low >= -1e-4 and high <= 1 + 1e-4):
            raise DDBenchError(f"{who} returned pixels outside [0, 1] (from {low:g} to {high:g})")
        if not images.is_floating_point():
            raise DDBenchError(f"{who} returned images of {images.dtype}; expected floats in [0, 1]")
    if indices is not None:
        if indices.dtype != torch.int64 or indices.ndim != 1:
            raise DDBenchError(f"{who} returned indices that are not a list of int64")
        if not bool(((indices >= 0) & (indices < len(dataset.train))).all()):
            raise DDBenchError(f"{who} returned indices outside the training set")
        if unit.slots:
            labels = torch.tensor([slot.label for slot in unit.slots])
            if indices.shape != labels.shape or bool((dataset.train.labels[indices] != labels).any()):
                raise DDBenchError(f"{who} returned real images of another class than the slot's")
    if weights is not None:
        weights = weights.detach().float().cpu()  # checked as they are stored: a float64 may be too large for that
        if weights.shape != (count,) or not _are_weights(weights):
            raise DDBenchError(f"{who} returned weights that are not one number >= 0 a slot")
    return UnitResult(images, indices, weights)


def _are_weights(weights: Tensor) -> bool:
    return weights.is_floating_point() and bool((weights.isfinite() & (weights >= 0)).all())


def check_stored(units: Sequence[Mapping[str, Tensor]], classes: int) -> None:
    """Refuses tensors that cannot be a set's units: whoever wrote them, it was not `check_result`'s caller.

    Raises DDBenchError saying what is wrong.
    """
    names = units[0].keys() if units else set[str]()
    if names - {"weights"} not in ({"images", "labels"}, {"indices", "labels"}):
        raise DDBenchError(f"a set is images or indices, and labels; stored are {', '.join(sorted(names)) or 'none'}")
    for unit in units:
        if unit.keys() != names:
            raise DDBenchError("there must be images, or indices, and weights for all units or for none")
        labels, body = unit["labels"], unit["images" if "images" in names else "indices"]
        weights = unit.get("weights", torch.ones(labels.shape))
        if "images" in names:
            size = units[0]["images"].shape[-1:]
            sound = body.dtype == torch.uint8 and body.shape[1:] == (3, *size, *size)
        else:
            sound = body.dtype == torch.int64 and body.ndim == 1
        sound = sound and labels.dtype == torch.int64 and labels.shape == weights.shape == body.shape[:1]
        if not sound:
            shapes = ", ".join(f"{name} {value.dtype} {list(value.shape)}" for name, value in sorted(unit.items()))
            raise DDBenchError(f"a stored unit is no part of a set: {shapes}")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise DDBenchError(f"a stored unit has labels beyond the {classes} classes")
        if not _are_weights(weights):
            raise DDBenchError("a stored unit has weights that are not numbers >= 0")


def assemble(
    dataset: Dataset, units: Sequence[Mapping[str, Tensor]], keys: tuple[str, ...], method: str
) -> DistilledSet:
    """The set whose units hold these tensors (`labels`, `images` or `indices`, maybe `weights`), in this order.

    Raises DDBenchError naming the method where they are no set of this dataset's, or a class has no weight.
    """
    # Before the block: what is wrong with the dataset is not the method's.
    real = dataset.train.labels if any("indices" in unit for unit in units) else torch.empty(0)
    try:
        check_stored(units, dataset.info.num_classes)
        parts = {name: torch.cat([unit[name] for unit in units]) for name in units[0]}
        size = dataset.config.image_size
        if "images" in parts and parts["images"].shape[-1] != size:
            raise DDBenchError(f"the stored images are of {parts['images'].shape[-1]} px, not {size}")
        if "indices" in parts:
            chosen = parts["indices"]
            if not bool(((chosen >= 0) & (chosen < len(real))).all()) or not torch.equal(real[chosen], parts["labels"]):
                raise DDBenchError("the stored indices are not of these training images")
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
