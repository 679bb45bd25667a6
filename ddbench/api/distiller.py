"""The base class of distillation methods. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

from ddbench.api.units import Slot, Unit, UnitResult

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.api.context import DistillTask
    from ddbench.api.dataset import DatasetInfo


class Distiller(BaseModel, frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False):
    """A distillation method.

    Subclass it, declare the hyper-parameters as pydantic fields, implement `distill`, and register the class with the
    hook `ddbench_distillers`. Every hyper-parameter is part of the cache key, can be changed with
    `--set NAME.FIELD=VALUE`, and is listed by `ddbench list methods NAME`. Give each a description with the source of
    its default.

    Attributes:
        name: Name on the command line and in records.
        version: Part of every cache key. Increase it when results change.
        paper: Citation, shown next to the name.
        needs_teacher: Whether the method uses `task.teacher` or `task.statistics`.
        needs_ipc: Whether the method takes a number of images per class. False for a reference run on the full dataset.
        default_evaluator: Name of the evaluator that is used if the user does not choose one.
        batch_settings: Names of the fields that bound the memory of `distill`. An out-of-memory error names them.
        caveat: What a reader must know of the method's numbers under other evaluators than `default_evaluator`. Tables
            print it as a note beside each of them. Empty: nothing.
        summary: What the method of the paper computes, in one to four sentences.
        departures: What this implementation leaves out or changes, in a few sentences.
        cost: The number of image passes of a set and of the method's own stages, as a formula in the names of settings,
            `classes`, `ipc` and `images`, the number of real training images. One pass takes one image forwards and
            backwards through a network; forwards alone is a third of a pass.

        `ddbench list methods NAME` and docs/methods.md print these three as plain text.

    Example:
        A method that averages random real images of a class:

            from ddbench.api import Distiller, hookimpl
            from pydantic import Field


            class Blur(Distiller):
                name = "blur"
                version = "1"
                paper = "an example"
                needs_teacher = False

                count: int = Field(default=4, ge=1, description="real images per distilled image")

                def distill(self, task, unit):
                    import torch

                    images = []
                    for slot in unit.slots:
                        indices = task.sample(slot.label, self.count, "blur", slot.index)
                        pixels = task.dataset.train.centre(indices, task.info.image_size)
                        images.append(pixels.float().mean(0) / 255)
                    return torch.stack(images)


            @hookimpl
            def ddbench_distillers():
                return [Blur]

        Import torch inside the methods, so that `ddbench list` and `ddbench --help` stay fast.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    paper: ClassVar[str] = ""
    needs_teacher: ClassVar[bool] = True
    needs_ipc: ClassVar[bool] = True
    default_evaluator: ClassVar[str] = "fkd"
    batch_settings: ClassVar[tuple[str, ...]] = ()
    caveat: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    departures: ClassVar[str] = ""
    cost: ClassVar[str] = ""

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Decides whether the method can run. Called before anything is trained.

        Args:
            dataset: Class names, counts and sizes of the dataset.
            ipc: Images per class, or None for a method without an IPC.

        Returns:
            The reason to refuse, or None. See `too_few_images`.
        """
        return None

    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        """Groups the slots of a distilled set into units. Default: one unit with all slots.

        One call of `distill` computes one unit. Units are checkpointed and distributed over workers separately. The
        grouping is part of the cache key. It may depend only on the hyper-parameters and the arguments, not on the
        hardware.

        Args:
            num_classes: Number of classes.
            ipc: Images per class.

        Returns:
            The units. Each slot is in exactly one of them. See `units_of_whole_classes` and `units_across_classes`.
        """
        slots = tuple(Slot(label, index) for label in range(num_classes) for index in range(ipc))
        return [Unit(0, slots)]

    def skip_teacher(self, batch_norms: int) -> str | None:
        """Decides whether the method can use a teacher. Called before anything is trained.

        Args:
            batch_norms: Number of BatchNorm layers of the teacher.

        Returns:
            The reason to refuse, or None. See `no_batch_norm`.
        """
        return None

    def networks(self) -> tuple[str, ...]:
        """Returns the names of the networks that `distill` builds. They are checked before anything is trained."""
        return ()

    def teacher_pool(self) -> tuple[str, ...]:
        """Returns the architectures of the teachers that `distill` uses (`task.teachers`).

        Each is trained with the settings of the teacher and cached as one. Default: none besides the configured one.
        """
        return ()

    def layers(self) -> tuple[int, ...]:
        """Returns the teacher's layers whose features `distill` uses. They are checked before anything is trained."""
        return ()

    def numerics(self) -> tuple[str, ...]:
        """Returns names in `ddbench.core.versions` whose versions are added to the key."""
        return ()

    def stages(self) -> tuple[str, ...]:
        """Returns the names of the plugin stages that the method uses (hook `ddbench_stages`)."""
        return ()

    def recover_steps(self) -> int | None:
        """Returns the steps of the recover loop, or None without it. `RecoverSettings` overrides it."""
        return None

    def decode_factor(self) -> int:
        """Returns the number of parts along a side of a stored image that students are trained on.

        With a factor f above 1, each image that `distill` returns holds f x f images of its class, and students get
        these parts, enlarged to the size of the image (`ddbench.augment.enlarge_parts`). IPC and bytes count stored
        images. Default: 1, the stored images themselves.
        """
        return 1

    def given_set(self) -> str | None:
        """Returns the distilled set that the method starts from: a file, a folder, or `set:DIGEST`. Default: None."""
        return None

    def image_passes(self, num_classes: int, ipc: int) -> int:
        """Counts forward-and-backward passes of the teacher, for the time estimate only.

        Args:
            num_classes: Number of classes.
            ipc: Images per class.

        Returns:
            Number of passes of one image for the whole distilled set. 0: unknown.
        """
        return 0

    def distill(self, task: DistillTask, unit: Unit) -> Tensor | UnitResult:
        """Computes the images of one unit.

        The result must not depend on other units, on global random generators or on how often the loop was
        interrupted: draw from `task.generator` and save the loop's state in `task.checkpoint`.

        Args:
            task: The real data, the teacher, generators, the checkpoint and the progress report.
            unit: The slots to fill.

        Returns:
            A float tensor [n, 3, S, S] of pixels in [0, 1] with one image per slot, in the order of `unit.slots`; or a
            UnitResult, which can also hold weights, or indices of real images instead of pixels.
        """
        raise NotImplementedError


def too_few_images(dataset: DatasetInfo, ipc: int | None) -> str | None:
    """Returns the reason to refuse an IPC above the number of real images of a class. Use it in `Distiller.skip`.

    Args:
        dataset: The dataset.
        ipc: Images per class, or None.

    Returns:
        The reason, or None if every class has enough images.
    """
    for name, count in zip(dataset.class_names, dataset.train_counts, strict=True):
        if ipc is not None and ipc > count:
            return f"--ipc {ipc} is more than the {count} training images of class '{name}'"
    return None


def no_batch_norm(method: str, batch_norms: int, weight: str) -> str | None:
    """Returns the reason to refuse a teacher without BatchNorm layers. Use it in `Distiller.skip_teacher`.

    Args:
        method: Name of the method.
        batch_norms: Number of BatchNorm layers of the teacher.
        weight: The hyper-parameter that is the weight of the BatchNorm terms, for the message.

    Returns:
        The reason, or None if the teacher has BatchNorm layers.
    """
    if batch_norms:
        return None
    return (
        f"{method} matches BatchNorm statistics, and this teacher has none: take another --arch "
        f"(e.g. convnet-bn-d3), or --set {method}.{weight}=0"
    )
