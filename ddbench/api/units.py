"""The slots and units of a distilled set, and the result of a distiller for one unit. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, order=True)
class Slot:
    """One position in a distilled set.

    Attributes:
        label: The class.
        index: Number of the image within its class, from 0 to IPC - 1.
    """

    label: int
    index: int


@dataclass(frozen=True)
class Unit:
    """Slots that one call of `Distiller.distill` computes. Units are checkpointed and distributed separately.

    Attributes:
        index: Number of the unit, from 0.
        slots: The slots, in the order of the images.
    """

    index: int
    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class UnitResult:
    """The result of `Distiller.distill` for one unit: one entry per slot, in the order of `Unit.slots`.

    Give either `images` or `indices`, and at most one of `probabilities` and `logits`. If a unit has soft labels or a
    learning rate, all units have them.

    Attributes:
        images: Float [n, 3, S, S], in the space `pixels`.
        indices: int64 [n], positions in the training set, for a set of real images.
        weights: Float [n], weights of the images. The core scales them so that they sum to 1 over each class. None:
            equal weights.
        pixels: The space of `images`. "bytes": values in [0, 1], stored as uint8. "unit": 0 is black and 1 is white,
            but values are not bounded. "normalised": the same with the dataset's mean and standard deviation (as
            `RealData.normalise` returns). Images of the last two are stored as float32.
        probabilities: Soft labels, float [n, K]; each row sums to 1. The protocol `own` trains on them.
        logits: Soft labels as logits, float [n, K].
        learning_rate: The student's learning rate that belongs to the set, for the protocol `own`.
    """

    images: Tensor | None = None
    indices: Tensor | None = None
    weights: Tensor | None = None
    pixels: Literal["bytes", "unit", "normalised"] = "bytes"
    probabilities: Tensor | None = None
    logits: Tensor | None = None
    learning_rate: float | None = None


def units_of_whole_classes(num_classes: int, ipc: int, batch_size: int) -> list[Unit]:
    """Groups whole classes into units of at most `batch_size` images, but at least one class.

    Args:
        num_classes: Number of classes.
        ipc: Images per class.
        batch_size: Images per unit.

    Returns:
        The units.

    Example:
        >>> [sorted({slot.label for slot in unit.slots}) for unit in units_of_whole_classes(5, ipc=10, batch_size=20)]
        [[0, 1], [2, 3], [4]]
    """
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
    """Groups one image each of up to `batch_size` classes into a unit, like the batches of SRe2L's released code.

    Args:
        num_classes: Number of classes.
        ipc: Images per class.
        batch_size: Images per unit.

    Returns:
        The units.

    Example:
        >>> [[(slot.label, slot.index) for slot in unit.slots] for unit in units_across_classes(3, ipc=2, batch_size=3)]
        [[(0, 0), (1, 0), (2, 0)], [(0, 1), (1, 1), (2, 1)]]
    """
    slots = [
        tuple(Slot(label, index) for label in range(start, min(start + batch_size, num_classes)))
        for index in range(ipc)
        for start in range(0, num_classes, batch_size)
    ]
    return [Unit(number, part) for number, part in enumerate(slots)]
