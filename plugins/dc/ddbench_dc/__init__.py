"""DC and DSA: dataset condensation by gradient matching (Zhao et al., ICLR 2021; Zhao and Bilen, ICML 2021).

The entry point of the plugin: hook implementations and the methods' hyper-parameters. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ddbench.api import DSA_STRATEGY, Distiller, Strategy, Unit, UnitResult, hookimpl, too_few_images

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.api import DatasetInfo, DistillTask

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""By IPC: matching steps per network, and training epochs between two steps (released code, `get_loops`)."""

DOUBLE_BACKWARD = 3
"""The cost of a synthetic image relative to a real one: its gradient is differentiated a second time."""


class DC(Distiller, frozen=True, extra="forbid"):
    """Optimises images to match the gradients of real images, over networks trained on the images (Algorithm 1)."""

    name = "dc"
    version = "1"
    paper = "Zhao, Mopuri and Bilen, Dataset Condensation with Gradient Matching, ICLR 2021 (arXiv 2006.05929)"
    summary = (
        "Optimises images so that a network has the same gradients on them as on real images, layer by layer and class "
        "by class. The network is trained on the images between the matching steps, and every iteration starts from a "
        "new one."
    )
    departures = (
        "The pixels are clamped to [0, 1] at the end and stored as bytes; the released code evaluates unclamped "
        "floats, as `clamp=false` does. MNIST is left out, and images above 32 px use deeper ConvNets."
    )
    cost = "distill: iterations * classes * (outer_loop * (real_batch + 3 * ipc) + (outer_loop - 1) * inner_loop * ipc)"
    needs_teacher = False
    default_evaluator = "dsa"
    batch_settings = ("real_batch", "network_batch")

    iterations: int = Field(default=1000, ge=1, description="networks, one after another (released code: 1000)")
    outer_loop: int | None = Field(
        default=None,
        ge=1,
        description="matching steps per network; null: by IPC (released code: 1: 1, 10: 10, 20: 20, 30: 30, 40: 40, "
        "50: 50; for other values the value of the next smaller IPC)",
    )
    inner_loop: int | None = Field(
        default=None,
        ge=0,
        description="training epochs of the network between two matching steps; null: by IPC (released code: 1: 1, "
        "10: 50, 20: 25, 30: 20, 40: 15, 50: 10)",
    )
    network: str = Field(default="convnet-d3", description="network whose gradients are matched (DC: ConvNet-3)")
    initial: Literal["noise", "real"] = Field(
        default="noise", description="initial images: standard normal noise, or real images (released code: noise)"
    )
    real_batch: int = Field(
        default=256, ge=1, description="real images of each class per matching step (released code: 256)"
    )
    learning_rate: float = Field(default=0.1, gt=0, description="rate of SGD on the pixels (released code: 0.1)")
    momentum: float = Field(default=0.5, ge=0, lt=1, description="momentum of SGD on the pixels (released code: 0.5)")
    network_learning_rate: float = Field(
        default=0.01, gt=0, description="rate of SGD on the network (released code: 0.01)"
    )
    network_momentum: float = Field(
        default=0.5, ge=0, lt=1, description="momentum of SGD on the network (first release: 0.5; since DSA: none)"
    )
    network_batch: int = Field(
        default=256, ge=1, description="images per step of SGD on the network (released code: 256)"
    )
    clamp: bool = Field(
        default=True,
        # Added later. The default is excluded, so that existing keys and records do not change.
        exclude_if=lambda clamp: clamp,
        description="clamp the final pixels to [0, 1] and store bytes; false: store floats, which the protocols dsa "
        "and own use (released code)",
    )

    def loops(self, ipc: int) -> tuple[int, int]:
        """Returns the matching steps per network and the training epochs between two steps.

        The released code has values for six IPCs and refuses others. Here any other IPC has the values of the next
        smaller one. Above 50 these are (50, 10), one of the two pairs that the authors give for larger sets.

        Args:
            ipc: Images per class.

        Returns:
            `outer_loop` and `inner_loop`, or the published values if they are None.

        Example:
            >>> DC().loops(10), DC().loops(15), DC(inner_loop=2).loops(50)
            ((10, 50), (10, 50), (50, 2))
        """
        outer, inner = LOOPS[max(published for published in LOOPS if published <= ipc)]
        return (
            outer if self.outer_loop is None else self.outer_loop,
            inner if self.inner_loop is None else self.inner_loop,
        )

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses an IPC above the number of images of the smallest class if the initial images are real."""
        return too_few_images(dataset, ipc) if self.initial == "real" else None

    def networks(self) -> tuple[str, ...]:
        """Returns the network whose gradients are matched."""
        return (self.network,)

    def image_passes(self, num_classes: int, ipc: int) -> int:
        """Counts the real and synthetic images of the matching steps and the images of the networks' training."""
        outer, inner = self.loops(ipc)
        matched = outer * num_classes * (self.real_batch + DOUBLE_BACKWARD * ipc)
        return self.iterations * (matched + (outer - 1) * inner * num_classes * ipc)

    def distill(self, task: DistillTask, unit: Unit) -> Tensor | UnitResult:
        """Returns images that are optimised to match the gradients of real images."""
        return self._distill(task, unit, None)

    def _distill(self, task: DistillTask, unit: Unit, strategy: str | None) -> Tensor | UnitResult:
        from ddbench_dc.matching import distill

        images = distill(self, task, unit, strategy)
        return images if self.clamp else UnitResult(images, pixels="unit")


class DSA(DC, frozen=True, extra="forbid"):
    """DC with differentiable siamese augmentation: real and synthetic images get the same random augmentation."""

    name = "dsa"
    paper = (
        "Zhao and Bilen, Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021 (arXiv 2102.08259)"
    )
    summary = (
        "DC with differentiable siamese augmentation: in every matching step, real and synthetic images get the same "
        "random augmentation, and the gradient passes through it."
    )

    initial: Literal["noise", "real"] = Field(
        default="real", description="initial images: real images, or standard normal noise (DSA's commands: real)"
    )
    network_momentum: float = Field(
        default=0.0, ge=0, lt=1, description="momentum of SGD on the network (released code: 0)"
    )
    strategy: Strategy = Field(
        default=DSA_STRATEGY,
        description="operations of siamese augmentation, joined by underscores; null = none, as DC "
        "(DSA: all six, digits without flip)",
    )

    def distill(self, task: DistillTask, unit: Unit) -> Tensor | UnitResult:
        """Returns images that are optimised to match the gradients of real images under the same augmentation."""
        return self._distill(task, unit, self.strategy)


@hookimpl
def ddbench_distillers() -> Iterable[type[Distiller]]:
    """Returns DC and DSA."""
    return [DC, DSA]


@hookimpl
def ddbench_recipes() -> Iterable[Path]:
    """Returns the recipes of DC and DSA."""
    return sorted((Path(__file__).parent / "recipes").glob("*.yaml"))
