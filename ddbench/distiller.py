"""What a method is: the Distiller base class, the slots and units it fills, and what it hands back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.data.spec import DatasetInfo
    from ddbench.task import DistillTask


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


class Distiller(BaseModel, frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False):
    """A method: its fields are its hyper-parameters (give each a description that names its source).

    `version` is part of every cache key: bump it when results change. `paper` is shown beside the name.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    paper: ClassVar[str] = ""
    needs_teacher: ClassVar[bool] = True
    needs_ipc: ClassVar[bool] = True
    default_evaluator: ClassVar[str] = "fkd"

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """A reason why this method cannot make `ipc` images a class of `dataset`, or None. Asked before training."""
        return None

    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        """How the slots are grouped: here one unit with every slot. Part of the key, never of the hardware."""
        slots = tuple(Slot(label, index) for label in range(num_classes) for index in range(ipc))
        return [Unit(0, slots)]

    def skip_teacher(self, batch_norms: int) -> str | None:
        """A reason why it cannot use a teacher with so many BatchNorm layers, or None. Asked before training."""
        return None

    def networks(self) -> tuple[str, ...]:
        """Names of the networks that it builds beside the teacher: looked up before anything is trained."""
        return ()

    def layers(self) -> tuple[int, ...]:
        """Numbers of the teacher's layers whose features it asks for: looked up before anything is trained."""
        return ()

    def numerics(self) -> tuple[str, ...]:
        """Names of `ddbench.versions` of what these settings use beside what every method may: they are in its keys."""
        return ()

    def work(self, num_classes: int, ipc: int) -> int:
        """Images put forward and backward through the teacher's network in all: for the time estimate only."""
        return 0

    def distill(self, task: DistillTask, unit: Unit) -> Tensor | UnitResult:
        """Images for the slots of `unit`: a float tensor [n, 3, S, S] in [0, 1], or a UnitResult."""
        raise NotImplementedError


def too_few_images(dataset: DatasetInfo, ipc: int | None) -> str | None:
    """The reason to refuse `ipc` where a class has fewer images, else None: for `skip`."""
    for name, count in zip(dataset.class_names, dataset.train_counts, strict=True):
        if ipc is not None and ipc > count:
            return f"--ipc {ipc} is more than the {count} training images of class '{name}'"
    return None


def no_batch_norm(method: str, batch_norms: int) -> str | None:
    """The reason to refuse a teacher without BatchNorm layers, else None: for `skip_teacher` of what matches them.

    `method` is the name of a method with a setting `bn_weight`.
    """
    if batch_norms:
        return None
    return (
        f"{method} matches BatchNorm statistics, and this teacher has none: take another --arch "
        f"(e.g. convnet-bn-d3), or --set {method}.bn_weight=0"
    )


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
