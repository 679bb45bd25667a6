"""MTT (Cazenavette et al., CVPR 2022): images whose students follow networks trained on real data. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ddbench_mtt.base import TrajectoryMatching

if TYPE_CHECKING:
    from ddbench.api import DistillTask, Unit, UnitResult


class MTT(TrajectoryMatching, frozen=True, extra="forbid"):
    """Optimises images and a learning rate so that a student trained on them follows networks trained on real data."""

    name = "mtt"
    version = "1"
    paper = (
        "Cazenavette et al., Dataset Distillation by Matching Training Trajectories, CVPR 2022 (arXiv 2203.11932); "
        "constant memory as in Cui et al., TESLA, ICML 2023 (arXiv 2211.10586)"
    )
    summary = (
        "Trains experts on the real data and stores their parameters after every epoch. A student starts from the "
        "parameters of an expert and takes some steps on the synthetic images. The images and the learning rate of the "
        "student are optimised so that its parameters come near those that the expert has some epochs later."
    )
    departures = (
        "ZCA whitening and the option for textures are left out. The gradient equals that of the unrolled steps but is "
        "computed with the memory of one step, an idea of TESLA. The result is that of the last iteration; the "
        "released code reports the best of several evaluations on the test images."
    )
    cost = (
        "experts: experts * expert_epochs * images; distill: 4 * iterations * student_steps * min(batch_size, classes "
        "* ipc)"
    )
    default_evaluator = "mtt"

    initial: Literal["real", "noise"] = Field(
        default="real", description="initial images: real images, or standard normal noise (released code: real)"
    )

    def distill(self, task: DistillTask, unit: Unit) -> UnitResult:
        """Returns float images and a learning rate with which students follow the experts."""
        from ddbench_mtt.matching import Matching, distill

        return distill(Matching(self, task), unit)
