"""SCDD: SRe2L with a self-supervised backbone (Zhou et al. 2024). The method and its stages. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ddbench.api import Stage, StageRun
from ddbench_sre2l.sre2l import SRe2L

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.api import CheckpointIO, DatasetInfo, DistillTask, Unit

    Built = tuple[dict[str, Tensor], dict[str, Any]]

HEAD_SHARE = 1 / 3
"""Cost of an image in the training of the head: the backbone computes forwards only."""


class SCDD(SRe2L, frozen=True, extra="forbid"):
    """SRe2L with another network: a self-supervised backbone whose classifier is trained on frozen features."""

    name = "scdd"
    version = "1"
    paper = "Zhou et al., Self-supervised Dataset Distillation: A Good Compression Is All You Need (arXiv 2404.07976)"
    needs_teacher = False
    summary = (
        "Trains a backbone without labels, then its classifier on frozen features, and optimises images from noise for "
        "the cross-entropy and the running BatchNorm statistics of this network, as SRe2L does with the teacher. The "
        "teacher labels the students (protocol `fkd`)."
    )
    departures = (
        "The authors take checkpoints of MoCo, SwAV and DINO; here the backbone is trained with SimSiam, or given "
        "(`scdd.backbone=FILE`). They have no settings for ImageNette: `paper` uses those for ImageNet-1K."
    )
    cost = "backbone: 2 * images * backbone_epochs; head: images * head_epochs / 3; distill: classes * ipc * steps"

    steps: int = Field(default=1000, ge=1, description="optimisation steps per unit (released commands: 1000)")
    network: str = Field(
        default="resnet18",
        description="network that is inverted (released commands: ResNet-50 on ImageNet-1K, ResNet-18 on CIFAR-100)",
    )
    backbone: Path | None = Field(
        default=None,
        description="checkpoint of a self-supervised backbone, safetensors or a weights-only file of PyTorch; null: "
        "SimSiam is trained (paper: MoCo v2, MoCo v3, SwAV and DINO)",
    )
    backbone_epochs: int = Field(default=200, ge=1, description="epochs of SimSiam (paper: 200)")
    backbone_learning_rate: float = Field(
        default=0.03, gt=0, description="rate of SGD, cosine to 0 (paper: 0.03; CIFAR-100 and Tiny ImageNet 0.06)"
    )
    backbone_weight_decay: float = Field(default=1e-4, ge=0, description="weight decay of SGD (MoCo and SimSiam: 1e-4)")
    backbone_batch: int = Field(default=256, ge=2, description="images per step, two views of each (SimSiam: 256)")
    head_epochs: int = Field(default=200, ge=1, description="epochs of the classifier on frozen features (paper: 200)")
    head_learning_rate: float = Field(
        default=0.03, gt=0, description="rate of SGD, cosine to 0 (paper: 0.03; CIFAR-100 and Tiny ImageNet 0.06)"
    )
    head_batch: int = Field(default=256, ge=2, description="images per step (MoCo: 256)")

    def skip_teacher(self, batch_norms: int) -> str | None:
        """Accepts every teacher: none is used."""
        return None

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses a checkpoint that does not exist."""
        if self.backbone is not None and not self.backbone.is_file():
            return f"scdd.backbone: '{self.backbone}' is no file; give a checkpoint, or null to train a backbone"
        return None

    def stages(self) -> tuple[str, ...]:
        """Returns the stages of the backbone and of its classifier."""
        return (Backbone.name, Head.name)

    def networks(self) -> tuple[str, ...]:
        """Returns the network that is inverted."""
        return (self.network,)

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        """Returns images that are optimised from noise as those of SRe2L, on the self-supervised network."""
        from ddbench_sre2l.inversion import distill
        from ddbench_sre2l.probe import inverted_network

        return distill(self, task, unit, [inverted_network(self, task)])


class Backbone(Stage):
    """Trains a backbone without labels, or loads a given one. The key holds neither IPC nor the seed of the set.

    The tensors are the state of the network without its classifier, by the names of `network`.
    """

    name = "backbone"
    version = "1"
    progress_unit = "epoch"

    def depends_on(self, run: StageRun) -> Mapping[str, Any]:
        """Returns the network, and the training or the content of the given checkpoint."""
        method = settings_of(run)
        if method.backbone is not None:
            return {"network": method.network, "checkpoint": method.backbone}
        return {
            "network": method.network,
            "epochs": method.backbone_epochs,
            "learning_rate": method.backbone_learning_rate,
            "weight_decay": method.backbone_weight_decay,
            "batch_size": method.backbone_batch,
        }

    def image_passes(self, run: StageRun, part: int) -> float:
        """Counts two views of every training image per epoch."""
        method = settings_of(run)
        return 0 if method.backbone is not None else 2 * method.backbone_epochs * sum(run.info.train_counts)

    def build(self, run: StageRun, part: int, checkpoint: CheckpointIO) -> Built:
        """Returns the backbone."""
        from ddbench_sre2l import probe, simsiam

        method = settings_of(run)
        network = probe.build(method, run.info)
        if method.backbone is not None:
            return probe.load_backbone(network, method.backbone), {}
        return simsiam.train_backbone(network, method, run, checkpoint), {}


class Head(Stage):
    """Trains the classifier on the frozen features of the backbone. The tensors are its `weight` and `bias`."""

    name = "head"
    version = "1"
    inputs = ("data", "backbone")
    progress_unit = "epoch"

    def depends_on(self, run: StageRun) -> Mapping[str, Any]:
        """Returns the settings of the training. The backbone is an input of the stage."""
        method = settings_of(run)
        return {
            "epochs": method.head_epochs,
            "learning_rate": method.head_learning_rate,
            "batch_size": method.head_batch,
        }

    def image_passes(self, run: StageRun, part: int) -> float:
        """Counts a share of every training image per epoch."""
        return HEAD_SHARE * settings_of(run).head_epochs * sum(run.info.train_counts)

    def build(self, run: StageRun, part: int, checkpoint: CheckpointIO) -> Built:
        """Returns the classifier. The metadata hold the accuracy on `dataset.val`, as `top1`."""
        from ddbench_sre2l.probe import train_head

        return train_head(settings_of(run), run, checkpoint)


def settings_of(run: StageRun) -> SCDD:
    """Returns the method of the run."""
    assert isinstance(run.method, SCDD)
    return run.method
