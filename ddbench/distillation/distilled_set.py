"""The distilled set: images or indices of real images, labels, weights, soft labels, a learning rate, a decoder."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddbench.api.units import UnitResult
from ddbench.augment.crops import denormalise
from ddbench.augment.parts import enlarge_parts
from ddbench.core.canonical import canonical_json
from ddbench.core.errors import DDBenchError
from ddbench.distillation.units import OF_WHOLE_SET, check_stored, extras_in, soft_labels_in
from ddbench.storage.artifacts import digest_of

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset


BODIES = ("images", "indices")
DECODED_AT_ONCE = 256
"""Images that are floats at once while bytes are decoded."""


@dataclass(frozen=True)
class DistilledSet:
    """A distilled set. It holds either stored images or indices of training images.

    Args:
        dataset: The real dataset.
        labels: int64 [m].
        weights: float32 [m]; the weights of each class sum to 1.
        keys: The cache keys of the units that the set consists of.
        stored: The images, uint8 [m, 3, S, S], or float32 with 0 for black and 1 for white, not bounded; None for a set
            of real images.
        indices: Indices into the training images, int64 [m]; None for a set of stored images.
        extras: Those of `EXTRAS` that the set has.
        images_per_stored: Of the result of `decoded`, the number of images that one stored image became.
    """

    dataset: Dataset
    labels: Tensor
    weights: Tensor
    keys: tuple[str, ...]
    stored: Tensor | None = None
    indices: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    images_per_stored: int = 1

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    @cached_property
    def images(self) -> Tensor:
        """uint8 [m, 3, S, S]. Floats are rounded and clamped. Real images appear in their evaluation view."""
        if self.stored is not None:
            return as_bytes(self.stored)
        assert self.indices is not None
        return self.dataset.train.centre(self.indices, self.dataset.config.image_size)

    @property
    def pixels(self) -> Tensor:
        """The images as they are stored, uint8 or float32 [m, 3, S, S]."""
        return self.images if self.stored is None else self.stored

    @property
    def soft_labels(self) -> Tensor | None:
        """Probabilities, float32 [m, K]; None if the set has no soft labels."""
        if "logits" in self.extras:
            return torch.softmax(self.extras["logits"], 1)
        return self.extras.get("probabilities")

    @property
    def learning_rate(self) -> float | None:
        """The student's learning rate that belongs to the set; None if it has none."""
        return float(self.extras["learning_rate"]) if "learning_rate" in self.extras else None

    @cached_property
    def decoded(self) -> DistilledSet:
        """The images that students are trained on: with a decoder the parts of the stored images, else this set."""
        if "decode_factor" not in self.extras:
            return self
        tensors = decode(self.tensors)
        return replace(
            self,
            labels=tensors["labels"],
            weights=tensors["weights"],
            stored=tensors["images"],
            extras=extras_in(tensors),
            images_per_stored=int(self.extras["decode_factor"]) ** 2,
        )

    @property
    def form(self) -> dict[str, Any]:
        """What the set holds besides uint8 images, classes and weights, for records. Most sets hold nothing else."""
        kind = soft_labels_in(self.extras)
        return {
            **({"pixels": "float32"} if self.stored is not None and self.stored.is_floating_point() else {}),
            **({"soft_labels": kind} if kind else {}),
            **({"learning_rate": self.learning_rate} if self.learning_rate is not None else {}),
            **({"decode_factor": int(self.extras["decode_factor"])} if "decode_factor" in self.extras else {}),
        }

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the set: `images` or `indices`, `labels`, `weights`, and the extras."""
        body = {"images": self.stored} if self.stored is not None else {"indices": self.indices}
        present = {name: tensor for name, tensor in body.items() if tensor is not None}
        return {**present, "labels": self.labels, "weights": self.weights, **self.extras}

    def discard_images(self) -> None:
        """Discards the real images or the rounded ones, so that the next use of `images` makes them again."""
        self.__dict__.pop("images", None)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all tensors of the set. For real images: over indices and the dataset they refer to."""
        real = {**self.dataset.depends_on, "image_size": self.dataset.config.image_size}
        return set_digest(self.tensors, canonical_json(real) if self.stored is None else "")

    @property
    def image_bytes(self) -> int:
        """The size of the images in bytes, as they are stored. Real images are counted as uint8."""
        if self.stored is None:
            return len(self) * 3 * self.dataset.config.image_size**2
        return self.stored.nbytes // self.images_per_stored

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
            extras={name: value if name in OF_WHOLE_SET else value[rows] for name, value in self.extras.items()},
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
            return as_bytes(self.stored[rows]), self.labels[rows]
        assert self.indices is not None
        size = self.dataset.config.image_size
        return self.dataset.train.centre(self.indices[rows], size), self.labels[rows]


def set_digest(tensors: Mapping[str, Tensor], meta: str = "") -> str:
    """Computes the digest of a distilled set.

    Args:
        tensors: Those of `DistilledSet.tensors`.
        meta: The dataset that indices refer to, as JSON.
    """
    return digest_of({"body" if name in BODIES else name: value for name, value in tensors.items()}, meta)


def decode(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Decodes the stored images of a set to those that students are trained on.

    Args:
        tensors: As `DistilledSet.tensors`, or a part of it with `images`.

    Returns:
        The same tensors without `decode_factor`: the images of `enlarge_parts`, in the type of the stored ones, with
        the label and the soft label of their stored image each, and its weight in equal parts. Without a decoder,
        `tensors`.

    Example:
        >>> stored = torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2).expand(1, 3, 2, 2)
        >>> tensors = {"images": stored, "labels": torch.tensor([7]), "decode_factor": torch.tensor([2])}
        >>> decode(tensors)["labels"], decode(tensors)["images"][:, 0, 0, 0]
        (tensor([7, 7, 7, 7]), tensor([0, 1, 2, 3], dtype=torch.uint8))
    """
    if "decode_factor" not in tensors:
        return dict(tensors)
    factor = int(tensors["decode_factor"])
    each = {name: value for name, value in tensors.items() if name not in OF_WHOLE_SET}
    decoded = {name: value.repeat_interleave(factor**2, 0) for name, value in each.items() if name != "images"}
    if "weights" in decoded:
        decoded["weights"] = decoded["weights"] / factor**2
    if "learning_rate" in tensors:
        decoded["learning_rate"] = tensors["learning_rate"]
    parts = []
    for images in torch.split(tensors["images"], DECODED_AT_ONCE):
        enlarged = enlarge_parts(images.float(), factor)
        parts.append(enlarged if images.is_floating_point() else enlarged.round().to(torch.uint8))
    return {"images": torch.cat(parts), **decoded}


def as_bytes(images: Tensor) -> Tensor:
    """Returns stored images as uint8. Floats, with 0 for black and 1 for white, are rounded and clamped."""
    return images if images.dtype == torch.uint8 else to_uint8(images, None)


def stored_images(result: UnitResult, dataset: Dataset, jpeg_quality: int | None) -> Tensor:
    """Returns the images of a result as they are stored: uint8, or float32 with 0 for black and 1 for white.

    Args:
        result: A result with images.
        dataset: The real dataset, for normalised images.
        jpeg_quality: See `to_uint8`.

    Raises:
        DDBenchError: JPEG is requested for floats that are not bytes.
    """
    assert result.images is not None
    images = result.images.detach()
    if result.pixels == "bytes":
        return to_uint8(images, jpeg_quality)
    if jpeg_quality is not None:
        raise DDBenchError(f"distill.jpeg_quality={jpeg_quality}: the method stores floats, which JPEG cannot hold")
    if result.pixels == "normalised":
        images = denormalise(images, dataset.mean.to(images.device), dataset.std.to(images.device))
    return images.float().cpu().contiguous()


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


def joined(units: Sequence[Mapping[str, Tensor]], classes: int) -> dict[str, Tensor]:
    """Checks the tensors of units and joins them to those of a distilled set.

    Args:
        units: As in `check_stored`, in order.
        classes: The number of classes.

    Returns:
        As `DistilledSet.tensors`.

    Raises:
        DDBenchError: The tensors are not a distilled set, or all weights of a class are 0.
    """
    check_stored(units, classes)
    parts = {
        name: value if name in OF_WHOLE_SET else torch.cat([unit[name] for unit in units])
        for name, value in units[0].items()
    }
    return {**parts, "weights": class_weights(parts["labels"], parts.get("weights"))}


def assemble(
    dataset: Dataset, units: Sequence[Mapping[str, Tensor]], keys: tuple[str, ...], method: str
) -> DistilledSet:
    """Joins the tensors of units to a distilled set.

    Args:
        dataset: The real dataset.
        units: As in `check_stored`, in order.
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
        parts = joined(units, dataset.info.num_classes)
        size = dataset.config.image_size
        if "images" in parts and parts["images"].shape[-1] != size:
            raise DDBenchError(f"the stored images have {parts['images'].shape[-1]} px, not {size}")
        if "indices" in parts:
            indices = parts["indices"]
            in_range = bool(((indices >= 0) & (indices < len(real))).all())
            if not in_range or not torch.equal(real[indices], parts["labels"]):
                raise DDBenchError("the stored indices are not of these training images")
    except DDBenchError as error:
        raise DDBenchError(f"method '{method}': {error}") from error
    bodies = (parts.get("images"), parts.get("indices"))
    return DistilledSet(dataset, parts["labels"], parts["weights"], keys, *bodies, extras_in(parts))


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
