"""DC and DSA: dataset condensation by gradient matching (Zhao et al., ICLR 2021; Zhao and Bilen, ICML 2021).

The plugin's entry point: hook implementations and the methods' hyper-parameters. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ddbench.api import DSA_STRATEGY, Distiller, Strategy, Unit, hookimpl, too_few_images

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.api import DatasetInfo, DistillTask

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""Matching steps a network and epochs of training it between two of them, by IPC (released code, `get_loops`)."""

DOUBLE_BACKWARD = 3  # a synthetic image costs about three real ones: its gradient is differentiated once more


class DC(Distiller, frozen=True, extra="forbid"):
    """Images on which a network's gradients are those on real images, while it is trained on them (Algorithm 1)."""

    name = "dc"
    version = "1"
    paper = "Zhao, Mopuri and Bilen, Dataset Condensation with Gradient Matching, ICLR 2021 (arXiv 2006.05929)"
    needs_teacher = False

    iterations: int = Field(default=1000, ge=1, description="fresh networks, one after the other (released code: 1000)")
    outer_loop: int | None = Field(
        default=None,
        ge=1,
        description="matching steps a network; null: by IPC (released code: 1: 1, 10: 10, 20: 20, 30: 30, 40: 40, "
        "50: 50), that of the nearest smaller IPC between them",
    )
    inner_loop: int | None = Field(
        default=None,
        ge=0,
        description="epochs of training the network between two matching steps; null: by IPC (released code: 1: 1, "
        "10: 50, 20: 25, 30: 20, 40: 15, 50: 10)",
    )
    network: str = Field(default="convnet-d3", description="network whose gradients are matched (DC: ConvNet-3)")
    initial: Literal["noise", "real"] = Field(
        default="noise", description="images to start from: standard normal noise, or real ones (released code: noise)"
    )
    real_batch: int = Field(
        default=256, ge=1, description="real images of a class a matching step (released code: 256)"
    )
    learning_rate: float = Field(default=0.1, gt=0, description="of the pixels' SGD (released code: 0.1)")
    momentum: float = Field(default=0.5, ge=0, lt=1, description="of the pixels' SGD (released code: 0.5)")
    network_learning_rate: float = Field(default=0.01, gt=0, description="of the network's SGD (released code: 0.01)")
    network_momentum: float = Field(
        default=0.5, ge=0, lt=1, description="of the network's SGD (code as first released: 0.5; since DSA: none)"
    )
    network_batch: int = Field(default=256, ge=1, description="images a step of the network's SGD (released code: 256)")

    def loops(self, ipc: int) -> tuple[int, int]:
        """Matching steps a network, and epochs of training between them: as set, else published for the IPC.

        The released code knows six values of IPC and refuses others. Here the nearest smaller of the six decides;
        above 50 that is (50, 10), one of the two pairs that its authors name for larger sets.
        """
        outer, inner = LOOPS[max(known for known in LOOPS if known <= ipc)]
        return (
            outer if self.outer_loop is None else self.outer_loop,
            inner if self.inner_loop is None else self.inner_loop,
        )

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses an IPC above the smallest class where the images to start from are real ones."""
        return too_few_images(dataset, ipc) if self.initial == "real" else None

    def networks(self) -> tuple[str, ...]:
        """The network whose gradients are matched."""
        return (self.network,)

    def image_passes(self, num_classes: int, ipc: int) -> int:
        """Real and synthetic images of the matching steps, and those of training the networks."""
        outer, inner = self.loops(ipc)
        matched = outer * num_classes * (self.real_batch + DOUBLE_BACKWARD * ipc)
        return self.iterations * (matched + (outer - 1) * inner * num_classes * ipc)

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        """Pixels whose gradients match those of real images."""
        from ddbench_dc.matching import distill

        return distill(self, task, unit)


class DSA(DC, frozen=True, extra="forbid"):
    """DC with differentiable siamese augmentation: real and synthetic images are matched in the same random view."""

    name = "dsa"
    paper = (
        "Zhao and Bilen, Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021 (arXiv 2102.08259)"
    )

    initial: Literal["noise", "real"] = Field(
        default="real", description="images to start from: real ones, or standard normal noise (DSA's commands: real)"
    )
    network_momentum: float = Field(default=0.0, ge=0, lt=1, description="of the network's SGD (released code: none)")
    strategy: Strategy = Field(
        default=DSA_STRATEGY,
        description="operations of siamese augmentation, joined by underscores; null = none, as DC "
        "(DSA: all six, digits without flip)",
    )

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        """Pixels whose gradients match those of real images under the same augmentation."""
        from ddbench_dc.matching import distill

        return distill(self, task, unit, self.strategy)


@hookimpl
def ddbench_distillers() -> Iterable[type[Distiller]]:
    return [DC, DSA]


@hookimpl
def ddbench_recipes() -> Iterable[Path]:
    return sorted((Path(__file__).parent / "recipes").glob("*.yaml"))
