"""DELT (Shen et al., CVPR 2025): CDA in rounds, which images join one after another. Imports no torch."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from ddbench.api import Phase, Unit, too_few_images, units_of_whole_classes
from ddbench_sre2l.sre2l import CDA

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.api import DatasetInfo, DistillTask


class DELT(CDA, frozen=True, extra="forbid"):
    """CDA from real images, in rounds: each round adds some images of every class, and the first get the most steps."""

    name = "delt"
    version = "1"
    paper = "Shen et al., DELT: A Simple Diversity-driven EarlyLate Training, CVPR 2025 (arXiv 2411.19946)"
    summary = (
        "Starts from real images of medium confidence and optimises them as CDA does, in rounds: each round adds some "
        "of the images of every class. Images of the first rounds change most and those of the last least, so that the "
        "images of a class differ more."
    )
    departures = (
        "The teacher of the recipe is shared with all methods. The authors have settings for ImageNet-1K; `paper` uses "
        "them for its subsets and Tiny ImageNet."
    )
    cost = (
        "distill: classes * steps / rounds * (ipc // rounds * rounds * (rounds + 1) / 2 + ipc % rounds * (2 * rounds + "
        "1 - ipc % rounds) / 2); the confidences take images / 3"
    )
    starts = ("medium", "noise")

    rounds: int = Field(default=8, ge=1, description="rounds of equally many steps (released code: 8, of 500 steps)")
    jitter: int = Field(default=0, ge=0, description="roll by 0..jitter pixels (released commands: 0)")
    initial: str = Field(
        default="medium",
        description="initial images; medium: real images of medium confidence (released code); noise; or a distilled "
        "set: a file, a folder or set:DIGEST",
    )

    @model_validator(mode="after")
    def _require_equal_rounds(self) -> Self:
        if self.steps % self.rounds:
            raise ValueError(f"steps {self.steps} must be a multiple of rounds {self.rounds}")
        return self

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses an IPC above the number of images of the smallest class if the initial images are real."""
        return too_few_images(dataset, ipc) if self.initial == "medium" else None

    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        """Returns units of whole classes with up to `batch_size` images (released code)."""
        return units_of_whole_classes(num_classes, ipc, self.batch_size)

    def joined(self, ipc: int) -> list[int]:
        """Returns how many images of a class are optimised in each round.

        Source: the released code (`recover/recover.py`, `get_round_imgs_indx`). The first rounds take one image more.

        Example:
            >>> DELT(rounds=4).joined(10)
            [3, 6, 8, 10]
        """
        added = [ipc // self.rounds + (number < ipc % self.rounds) for number in range(self.rounds)]
        return list(accumulate(added))

    def image_passes(self, num_classes: int, ipc: int) -> int:
        """Counts every image once per step of the rounds that it is in."""
        return num_classes * (self.steps // self.rounds) * sum(self.joined(ipc))

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        """Returns images that are optimised from real images, round by round."""
        from ddbench_sre2l.inversion import distill
        from ddbench_sre2l.medium import medium_images

        initial = task.noise(unit) if self.initial == "noise" else medium_images(task, unit)
        phases = [
            Phase(
                self.steps // self.rounds,
                tuple(row for row, slot in enumerate(unit.slots) if slot.index < joined),
            )
            for joined in self.joined(task.ipc)
        ]
        return distill(self, task, unit, initial=initial, phases=phases)
