"""What a method is: the Distiller base class, the slots and units it fills, and what it hands back."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

from ddbench.api.units import Slot, Unit, UnitResult

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.api.context import DistillTask
    from ddbench.api.dataset import DatasetInfo


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
        """Names in `ddbench.core.versions` of the numerics that these settings use besides the common ones."""
        return ()

    def stages(self) -> tuple[str, ...]:
        """Returns the names of the stages that the method uses besides the built-in ones (hook `ddbench_stages`)."""
        return ()

    def image_passes(self, num_classes: int, ipc: int) -> int:
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
