"""Checks of units: their slots, what a method returned for them, and their stored tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddbench.api.units import Unit, UnitResult
from ddbench.core.errors import DDBenchError, unknown

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset

PIXELS = ("bytes", "unit", "normalised")
SOFT_LABELS = ("probabilities", "logits")
"""The two kinds of soft labels. A set has at most one."""
OF_WHOLE_SET = ("learning_rate", "decode_factor")
EXTRAS = (*SOFT_LABELS, *OF_WHOLE_SET)
"""Tensors of a set that only some sets have: soft labels, float32 [m, K]; a learning rate, float64 [1]; and a factor of
`enlarge_parts`, int64 [1], by which each stored image is several images for a student."""


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
        The result as a `UnitResult`, with weights and soft labels as float32 on the CPU. Weights are not scaled yet.

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
    for name in ("images", "indices", "weights", *SOFT_LABELS):
        value = getattr(result, name)
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
        if result.pixels not in PIXELS:
            raise unknown("space of pixels", result.pixels, PIXELS)
        low, high = (float(images.min()), float(images.max())) if count else (0.0, 0.0)
        if result.pixels == "bytes" and not (low >= -1e-4 and high <= 1 + 1e-4):
            raise DDBenchError(f"{owner} returned pixels outside [0, 1] (from {low:g} to {high:g})")
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DDBenchError(f"{owner} returned pixels that are not finite (NaN or infinity)")
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
    body = images if images is not None else indices
    assert body is not None
    if weights is not None:
        # Convert before the check, because a float64 value may overflow in float32.
        weights = weights.detach().float().cpu()
        if weights.shape != (count,) or not are_weights(weights):
            raise DDBenchError(f"{owner} returned weights that are not one number >= 0 per slot")
    if not isinstance(result.learning_rate, int | float | None):
        raise DDBenchError(f"{owner} returned a learning rate that is no number: {result.learning_rate!r}")
    soft = {name: getattr(result, name) for name in SOFT_LABELS}
    soft = {name: None if value is None else value.detach().float().cpu() for name, value in soft.items()}
    result = replace(result, weights=weights, **soft)
    check_extras(extras_of(result), len(body), dataset.info.num_classes, size, f"{owner} returned")
    return result


def extras_of(result: UnitResult) -> dict[str, Tensor]:
    """Returns the soft labels and the learning rate of a result as tensors, as they are stored."""
    extras = {name: value for name in SOFT_LABELS if (value := getattr(result, name)) is not None}
    if isinstance(result.learning_rate, int | float):
        extras["learning_rate"] = torch.tensor([result.learning_rate], dtype=torch.float64)
    return extras


def extras_in(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns those of `EXTRAS` among the tensors of a set or a unit."""
    return {name: tensors[name] for name in EXTRAS if name in tensors}


def soft_labels_in(tensors: Mapping[str, Tensor]) -> str | None:
    """Returns the kind of soft labels among tensors, one of `SOFT_LABELS`; None if there are none."""
    return next((name for name in SOFT_LABELS if name in tensors), None)


def check_stored(units: Sequence[Mapping[str, Tensor]], classes: int) -> None:
    """Checks the stored tensors of units, which may come from a damaged or unrelated file.

    Args:
        units: The tensors of each unit: `labels`, either `images` or `indices`, and optionally `weights` and `EXTRAS`.
        classes: The number of classes.

    Raises:
        DDBenchError: A tensor is missing, or has a wrong type, shape or range.
    """
    names = units[0].keys() if units else set[str]()
    if names - {"weights", *EXTRAS} not in ({"images", "labels"}, {"indices", "labels"}):
        raise DDBenchError(
            f"a distilled set needs labels and either images or indices; stored: {', '.join(sorted(names)) or 'none'}"
        )
    for unit in units:
        if unit.keys() != names:
            raise DDBenchError("there must be images, indices, soft labels and weights for all units or for none")
        labels, body = unit["labels"], unit["images" if "images" in names else "indices"]
        weights = unit.get("weights", torch.ones(labels.shape))
        if "images" in names:
            first = units[0]["images"]
            valid = first.dtype in (torch.uint8, torch.float32) and body.dtype == first.dtype
            valid = valid and body.shape[1:] == (3, *first.shape[-1:], *first.shape[-1:])
        else:
            valid = body.dtype == torch.int64 and body.ndim == 1
        valid = valid and labels.dtype == torch.int64 and labels.shape == weights.shape == body.shape[:1]
        if not valid:
            shapes = ", ".join(f"{name} {value.dtype} {list(value.shape)}" for name, value in sorted(unit.items()))
            raise DDBenchError(f"a stored unit is not part of a distilled set: {shapes}")
        if not bool(body.isfinite().all()):
            raise DDBenchError("a stored unit has pixels that are not finite")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise DDBenchError(f"a stored unit has labels outside of the {classes} classes")
        if not are_weights(weights):
            raise DDBenchError("a stored unit has weights that are not numbers >= 0")
        size = body.shape[-1] if "images" in names else None
        check_extras(extras_in(unit), len(labels), classes, size, "a stored unit has")
    for name in OF_WHOLE_SET:
        values = [unit[name] for unit in units if name in names]
        if any(not torch.equal(value, values[0]) for value in values):
            raise DDBenchError(f"the units of a distilled set have different {name.replace('_', ' ')}s")


def are_weights(weights: Tensor) -> bool:
    """Tests whether weights are floats of at least 0."""
    return weights.is_floating_point() and bool((weights.isfinite() & (weights >= 0)).all())


def check_extras(extras: Mapping[str, Tensor], count: int, classes: int, size: int | None, owner: str) -> None:
    """Checks soft labels, the learning rate and the factor of a unit.

    Args:
        extras: Those of `EXTRAS` that it has.
        count: The number of images.
        classes: The number of classes.
        size: The side of the stored images in pixels; None: the unit holds indices.
        owner: The beginning of the error message, e.g. "a stored unit has".

    Raises:
        DDBenchError: One is invalid, or there are two kinds of soft labels.
    """
    if {*SOFT_LABELS} <= extras.keys():
        raise DDBenchError(f"{owner} both probabilities and logits: keep one of them")
    for name in SOFT_LABELS:
        values = extras.get(name)
        if values is None:
            continue
        if not values.is_floating_point() or tuple(values.shape) != (count, classes):
            raise DDBenchError(
                f"{owner} {name} of {values.dtype} {list(values.shape)}; floats [{count}, {classes}] are needed"
            )
        if not bool(values.isfinite().all()):
            raise DDBenchError(f"{owner} {name} that are not finite (NaN or infinity)")
        if name == "probabilities" and not are_probabilities(values):
            raise DDBenchError(f"{owner} probabilities that are below 0 or do not sum to 1 in each row")
    rate = extras.get("learning_rate")
    if rate is not None and not (rate.numel() == 1 and bool((rate.isfinite() & (rate > 0)).all())):
        raise DDBenchError(f"{owner} a learning rate that is not one number above 0")
    factor = extras.get("decode_factor")
    if factor is None:
        return
    if factor.dtype != torch.int64 or factor.numel() != 1 or int(factor) < 2:
        raise DDBenchError(f"{owner} a decode_factor that is not one whole number above 1")
    if size is None or size % int(factor):
        images = "indices of real images" if size is None else f"images of {size} px"
        raise DDBenchError(f"{owner} the decode_factor {int(factor)}, which does not divide {images}")


def are_probabilities(values: Tensor) -> bool:
    """Tests whether each row of [m, K] is at least 0 and sums to 1, up to the rounding of fp16."""
    return bool((values >= 0).all()) and bool(((values.double().sum(1) - 1).abs() < 1e-2).all())
