"""What a method is: the Distiller base class, the slots and units it fills, and what it hands back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, order=True)
class Slot:
    """One place of a distilled set: the `index`-th image (0 .. IPC-1) of class `label`."""

    label: int
    index: int


@dataclass(frozen=True)
class Unit:
    """Slots that are optimised together: the unit of checkpoint, resume and distribution."""

    index: int
    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class UnitResult:
    """What a distiller made for one unit, one entry a slot, in the unit's order.

    Exactly one of `images` (float [n, 3, S, S], pixel values in [0, 1]) and `indices` (int64 [n], positions in
    the training set: a set of real images). `weights` (float [n]) sum to 1 over each class; None means uniform.
    """

    images: Tensor | None = None
    indices: Tensor | None = None
    weights: Tensor | None = None


def units_of_whole_classes(num_classes: int, ipc: int, batch_size: int) -> list[Unit]:
    """Units of as many whole classes as `batch_size` images hold, at least one class each."""
    per_unit = max(1, batch_size // ipc)
    starts = range(0, num_classes, per_unit)
    return [
        Unit(
            number,
            tuple(Slot(k, j) for k in range(start, min(start + per_unit, num_classes)) for j in range(ipc)),
        )
        for number, start in enumerate(starts)
    ]


def units_across_classes(num_classes: int, ipc: int, batch_size: int) -> list[Unit]:
    """Units of one image each of up to `batch_size` classes: the batches of SRe2L's released code."""
    slots = [
        tuple(Slot(label, index) for label in range(start, min(start + batch_size, num_classes)))
        for index in range(ipc)
        for start in range(0, num_classes, batch_size)
    ]
    return [Unit(number, part) for number, part in enumerate(slots)]
