"""The distilled set: images or indices of real images, labels and weights; checks of a method's results."""

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
from ddbench.core.canonical import canonical_json
from ddbench.core.errors import DDBenchError
from ddbench.storage.artifacts import digest_of

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset


@dataclass(frozen=True)
class DistilledSet:
    """A distilled set. It holds either stored images or indices of training images.

    Args:
        dataset: The real dataset.
        labels: int64 [m].
        weights: float32 [m]; the weights of each class sum to 1.
        keys: The cache keys of the units that the set consists of.
        stored: The images, uint8 [m, 3, S, S]; None for a set of real images.
        indices: Indices into the training images, int64 [m]; None for a set of stored images.
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
        """uint8 [m, 3, S, S], for evaluation and export. Real images appear in their evaluation view."""
        if self.stored is not None:
            return self.stored
        assert self.indices is not None
        return self.dataset.train.centre(self.indices, self.dataset.config.image_size)

    def discard_images(self) -> None:
        """Discards the loaded real images, so that the next use of `images` reads them again."""
        if self.stored is None:
            self.__dict__.pop("images", None)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over images, labels and weights. For real images: over indices and the dataset they refer to."""
        body = self.stored if self.stored is not None else self.indices
        assert body is not None
        real = {**self.dataset.depends_on, "image_size": self.dataset.config.image_size}
        meta = canonical_json(real) if self.stored is None else ""
        return digest_of({"body": body, "labels": self.labels, "weights": self.weights}, meta)

    @property
    def image_bytes(self) -> int:
        """The size of the images in bytes, as uint8."""
        return len(self) * 3 * self.dataset.config.image_size**2

    def part(self, rows: Tensor) -> DistilledSet:
        """Returns a subset of the images. Its weights are scaled so that those of each class sum to 1.

        Args:
            rows: Positions in the set, int64 [n].

        Raises:
            DDBenchError: All weights of a class are 0.
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
        """Returns the first images of each class, for a figure.

        Args:
            per_class: The number of images per class.

        Returns:
            The images, uint8 [n, 3, S, S], and their labels, int64 [n], in the order of the set.
        """
        position = torch.zeros_like(self.labels)  # position of each image inside its class
        for label in torch.unique(self.labels):
            of_class = self.labels == label
            position[of_class] = torch.arange(int(of_class.sum()))
        rows = (position < per_class).nonzero().squeeze(1)
        if self.stored is not None:
            return self.stored[rows], self.labels[rows]
        assert self.indices is not None
        size = self.dataset.config.image_size
        return self.dataset.train.centre(self.indices[rows], size), self.labels[rows]


def to_uint8(images: Tensor, jpeg_quality: int | None) -> Tensor:
    """Converts images to uint8. Without JPEG values are rounded; with JPEG they are truncated, as in the released code.

    Args:
        images: Pixel values in [0, 1], float [n, 3, H, W].
        jpeg_quality: The quality (1 to 95) of a JPEG compression after the conversion; None: no compression.

    Returns:
        uint8 [n, 3, H, W], on the CPU.

    Example:
        >>> to_uint8(torch.tensor([0.0, 0.499, 1.0]).view(1, 3, 1, 1), None).flatten().tolist()
        [0, 127, 255]
    """
    if jpeg_quality is None:
        return (images * 255.0).round().clamp(0, 255).to(torch.uint8).cpu()
    truncated = (images * 255.0).clamp(0, 255).to(torch.uint8).cpu()
    return torch.stack([_compress_jpeg(image, jpeg_quality) for image in truncated])


def _compress_jpeg(image: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer).convert("RGB"))).permute(2, 0, 1).contiguous()


def check_units(units: list[Unit], num_classes: int, ipc: int, owner: str) -> None:
    """Checks that units hold each of the IPC slots of every class exactly once, and are numbered in order.

    Args:
        units: The units of a method.
        num_classes: The number of classes.
        ipc: Images per class.
        owner: The method and its plugin, e.g. "method 'blur' of ddbench-blur". It begins the error message.

    Raises:
        DDBenchError: A slot is missing or occurs twice, or the number of a unit is wrong.
    """
    slots = [(slot.label, slot.index) for unit in units for slot in unit.slots]
    if sorted(slots) != [(label, index) for label in range(num_classes) for index in range(ipc)]:
        raise DDBenchError(f"{owner} must make each of {ipc} images of {num_classes} classes once")
    # The number is part of a unit's cache key: two units with one number would share an artifact.
    if [unit.index for unit in units] != list(range(len(units))):
        raise DDBenchError(f"{owner} must number its {len(units)} units in order, from 0")


def check_result(result: object, unit: Unit, dataset: Dataset, owner: str) -> UnitResult:
    """Checks what a method returned for a unit.

    Args:
        result: Images (float [n, 3, S, S] in [0, 1]) or a `UnitResult`.
        unit: The unit.
        dataset: The real dataset.
        owner: The method and its plugin. It begins the error message.

    Returns:
        The result as a `UnitResult`, with weights as float32 on the CPU. They are not scaled yet.

    Raises:
        DDBenchError: The result has a wrong type, shape or range, or holds real images whose classes are not those of
            the slots.
    """
    count, size = len(unit.slots), dataset.config.image_size
    if isinstance(result, Tensor):
        result = UnitResult(images=result)
    if not isinstance(result, UnitResult):
        raise DDBenchError(f"{owner} returned {type(result).__name__} instead of images")
    images, indices, weights = result.images, result.indices, result.weights
    for name, value in (("images", images), ("indices", indices), ("weights", weights)):
        if not isinstance(value, Tensor | None):
            raise DDBenchError(f"{owner} returned {name} that are not a tensor but {type(value).__name__}")
    if (images is None) == (indices is None):
        raise DDBenchError(f"{owner} must return either images or indices for unit {unit.index}")
    if images is not None:
        if tuple(images.shape) != (count, 3, size, size):
            raise DDBenchError(
                f"{owner} returned images of shape {tuple(images.shape)} for unit {unit.index}; "
                f"expected {(count, 3, size, size)}"
            )
        low, high = (float(images.min()), float(images.max())) if count else (0.0, 0.0)
        if not (low >= -1e-4 and high <= 1 + 1e-4):
            raise DDBenchError(f"{owner} returned pixels outside [0, 1] (from {low:g} to {high:g})")
        if not images.is_floating_point():
            raise DDBenchError(f"{owner} returned images of {images.dtype}; expected floats in [0, 1]")
    if indices is not None:
        if indices.dtype != torch.int64 or indices.ndim != 1:
            raise DDBenchError(
                f"{owner} returned indices of shape {tuple(indices.shape)} and dtype {indices.dtype}; expected a "
                "one-dimensional int64 tensor"
            )
        if not bool(((indices >= 0) & (indices < len(dataset.train))).all()):
            raise DDBenchError(f"{owner} returned indices outside the training set")
        if unit.slots:
            labels = torch.tensor([slot.label for slot in unit.slots])
            if indices.shape != labels.shape:
                raise DDBenchError(
                    f"{owner} returned {len(indices)} indices for unit {unit.index}; expected {count}, one per slot"
                )
            if bool((dataset.train.labels[indices] != labels).any()):
                raise DDBenchError(f"{owner} returned indices of images whose classes are not those of the slots")
    if weights is not None:
        # Convert before the check, because a float64 value may overflow in float32.
        weights = weights.detach().float().cpu()
        if weights.shape != (count,) or not _are_weights(weights):
            raise DDBenchError(f"{owner} returned weights that are not one number >= 0 per slot")
    return UnitResult(images, indices, weights)


def _are_weights(weights: Tensor) -> bool:
    return weights.is_floating_point() and bool((weights.isfinite() & (weights >= 0)).all())


def check_stored(units: Sequence[Mapping[str, Tensor]], classes: int) -> None:
    """Checks the stored tensors of units, which may come from a damaged or unrelated file.

    Args:
        units: The tensors of each unit: `labels`, either `images` or `indices`, and optionally `weights`.
        classes: The number of classes.

    Raises:
        DDBenchError: A tensor is missing, or has a wrong type, shape or range.
    """
    names = units[0].keys() if units else set[str]()
    if names - {"weights"} not in ({"images", "labels"}, {"indices", "labels"}):
        raise DDBenchError(
            f"a distilled set needs labels and either images or indices; stored: {', '.join(sorted(names)) or 'none'}"
        )
    for unit in units:
        if unit.keys() != names:
            raise DDBenchError("there must be images, indices and weights for all units or for none")
        labels, body = unit["labels"], unit["images" if "images" in names else "indices"]
        weights = unit.get("weights", torch.ones(labels.shape))
        if "images" in names:
            size = units[0]["images"].shape[-1:]
            valid = body.dtype == torch.uint8 and body.shape[1:] == (3, *size, *size)
        else:
            valid = body.dtype == torch.int64 and body.ndim == 1
        valid = valid and labels.dtype == torch.int64 and labels.shape == weights.shape == body.shape[:1]
        if not valid:
            shapes = ", ".join(f"{name} {value.dtype} {list(value.shape)}" for name, value in sorted(unit.items()))
            raise DDBenchError(f"a stored unit is not part of a distilled set: {shapes}")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise DDBenchError(f"a stored unit has labels outside of the {classes} classes")
        if not _are_weights(weights):
            raise DDBenchError("a stored unit has weights that are not numbers >= 0")


def assemble(
    dataset: Dataset, units: Sequence[Mapping[str, Tensor]], keys: tuple[str, ...], method: str
) -> DistilledSet:
    """Joins the tensors of units to a distilled set.

    Args:
        dataset: The real dataset.
        units: The tensors of each unit, in order: `labels`, either `images` or `indices`, and optionally `weights`.
        keys: The cache keys of the units.
        method: The method's name, for error messages.

    Returns:
        The set, in the order of the units.

    Raises:
        DDBenchError: The tensors are not a distilled set of this dataset, or all weights of a class are 0.
    """
    # This is outside of the `try` block, because the message of a dataset's error must not name the method.
    real = dataset.train.labels if any("indices" in unit for unit in units) else torch.empty(0)
    try:
        check_stored(units, dataset.info.num_classes)
        parts = {name: torch.cat([unit[name] for unit in units]) for name in units[0]}
        size = dataset.config.image_size
        if "images" in parts and parts["images"].shape[-1] != size:
            raise DDBenchError(f"the stored images have {parts['images'].shape[-1]} px, not {size}")
        if "indices" in parts:
            indices = parts["indices"]
            in_range = bool(((indices >= 0) & (indices < len(real))).all())
            if not in_range or not torch.equal(real[indices], parts["labels"]):
                raise DDBenchError("the stored indices are not of these training images")
        weights = class_weights(parts["labels"], parts.get("weights"))
    except DDBenchError as error:
        raise DDBenchError(f"method '{method}': {error}") from error
    return DistilledSet(dataset, parts["labels"], weights, keys, parts.get("images"), parts.get("indices"))


def class_weights(labels: Tensor, weights: Tensor | None) -> Tensor:
    """Scales weights so that those of each class sum to 1.

    Args:
        labels: int64 [m].
        weights: Float [m], at least 0; None: uniform weights.

    Returns:
        float32 [m].

    Raises:
        DDBenchError: All weights of a class are 0.

    Example:
        >>> class_weights(torch.tensor([0, 0, 1]), torch.tensor([1.0, 3.0, 5.0]))
        tensor([0.2500, 0.7500, 1.0000])
    """
    raw = torch.ones(labels.shape[0], dtype=torch.float64) if weights is None else weights.double()
    sums = torch.zeros(int(labels.max()) + 1, dtype=torch.float64).index_add_(0, labels, raw)
    if bool((sums[labels] <= 0).any()):
        raise DDBenchError("the weights of a class sum to zero; every class needs an image with a positive weight")
    return (raw / sums[labels]).float()


def exact_weights(labels: Tensor, weights: Tensor) -> Tensor:
    """Returns weights that `class_weights` scales to exactly `weights`, if these sum to 1 in each class up to rounding.

    An exported set that is read again therefore keeps its digest. Float32 weights do not sum to exactly 1, and scaling
    them again would change some weights by a rounding error. The difference is distributed over the weights of a class
    in proportion to their distance to the next float32 number, which changes none of them after rounding.

    Args:
        labels: int64 [m].
        weights: Float [m], at least 0.

    Returns:
        float64 [m].

    Example:
        >>> labels, weights = torch.zeros(2, dtype=torch.int64), torch.tensor([0.53, 0.47])
        >>> torch.equal(class_weights(labels, exact_weights(labels, weights)), weights)
        True
    """
    exact = weights.double()
    spacing = torch.nextafter(weights.float(), torch.tensor(torch.inf)).double() - weights.float().double()
    spacing = torch.where(exact > 0, spacing, 0.0)
    for label in torch.unique(labels):
        rows = labels == label
        excess, slack = exact[rows].sum() - 1, spacing[rows].sum()
        if 0 < abs(excess) <= slack / 2:
            exact[rows] -= excess * spacing[rows] / slack
    return exact
