"""Coresets: real images chosen by scores from the training of networks on the real data. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ddbench.api.settings import TrainingSettings
from ddbench.methods.selection import Selection

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from ddbench.api.context import DistillTask


class Scored(Selection, frozen=True, extra="forbid"):
    """Selects images of each class by a score, the mean over networks that are trained on the real data.

    Attributes:
        score: The name of the score in the stage `dynamics`.
        sign: 1 if a hard image has a high score, -1 if it has a low one.
        full_gradient: Whether the stage computes the gradient of each image in all parameters, too.
    """

    needs_teacher = False
    departures = (
        "IPC images of each class are kept, instead of a share of all classes together. The networks see "
        "random-resized-crops instead of shifted images, and SGD has no Nesterov momentum. The recipe `quick` keeps "
        "the easiest images, which are better in small sets."
    )
    cost = "dynamics: trainings * images * (epochs + 1 / 3)"
    score: ClassVar[str]
    sign: ClassVar[int] = 1

    network: str = Field(default="resnet18", description="architecture of the networks (papers on CIFAR: ResNet-18)")
    trainings: int = Field(
        default=10, ge=1, description="networks with different seeds; their scores are averaged (EL2N, GraNd: 10)"
    )
    epochs: int = Field(default=20, ge=1, description="epochs of each network (EL2N, GraNd: 20)")
    schedule: Literal["constant", "steps", "cosine"] = Field(
        default="constant",
        description="learning rate over the epochs; steps: a fifth after 30, 60 and 80 % (forgetting)",
    )
    learning_rate: float = Field(default=0.1, gt=0, description="learning rate of SGD (papers: 0.1)")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD (papers: 0.9, Nesterov)")
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay (EL2N, forgetting, CCS: 5e-4)")
    batch_size: int = Field(default=128, ge=1, description="images per step (EL2N, GraNd, forgetting: 128)")

    @property
    def full_gradient(self) -> bool:
        """Whether the stage computes the gradient of each image in all parameters."""
        return False

    def training(self) -> TrainingSettings:
        """Returns the hyper-parameters of the training."""
        return TrainingSettings(
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            epochs=self.epochs,
        )

    def stages(self) -> tuple[str, ...]:
        """Returns the stage that trains the networks."""
        return ("dynamics",)

    def networks(self) -> tuple[str, ...]:
        """Returns the network whose training gives the scores."""
        return (self.network,)

    def describe(self, task: DistillTask, label: int) -> Tensor:
        """Returns the scores of the class's images, float64 [n]."""
        import torch

        rows = task.dataset.train.of_class(label)
        parts = [task.tensors("dynamics", part)[self.score_name()][rows] for part in range(self.trainings)]
        return torch.stack(parts).mean(0)

    def score_name(self) -> str:
        """Returns the name of the score in the stage `dynamics`."""
        return self.score


class Ranked(Scored, frozen=True, extra="forbid"):
    """Selects the first images of an order by the score."""

    take: Literal["hardest", "middle", "easiest"] = Field(
        default="hardest",
        description="which images of a class: the hardest (papers), those nearest to the median of the score, or the "
        "easiest (better for small sets: Sorscher et al., NeurIPS 2022)",
    )

    def choose(self, features: Tensor, count: int, generator: Generator) -> Tensor:
        """Selects the hardest, the easiest or the middle images. Images of equal scores are drawn at random.

        Args:
            features: The scores of the class's images, float64 [n].
            count: The number of images to select, at most n.
            generator: Orders images of equal scores.

        Returns:
            Distinct rows of `features`, int64 [count].

        Example:
            >>> import torch
            >>> margins = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
            >>> AUM(take="easiest").choose(margins, 2, torch.Generator()).tolist()
            [0, 2]
        """
        from ddbench.methods.scores import order

        return order(self.sign * features, self.take, generator)[:count]


class EL2N(Ranked, frozen=True, extra="forbid"):
    """Selects images by the norm of the error vector early in training: of the probabilities minus the label."""

    name = "el2n"
    version = "1"
    paper = "Paul et al., Deep Learning on a Data Diet, NeurIPS 2021 (arXiv 2107.07075)"
    summary = (
        "Scores each image by the norm of its error after a few epochs of training: the probabilities minus the label, "
        "averaged over networks. The paper prunes large datasets and keeps the images of high scores."
    )
    score = "el2n"


class GraNd(Ranked, frozen=True, extra="forbid"):
    """Selects images by the norm of the gradient of their loss early in training."""

    name = "grand"
    version = "1"
    paper = "Paul et al., Deep Learning on a Data Diet, NeurIPS 2021 (arXiv 2107.07075)"
    summary = (
        "Scores each image by the norm of the gradient of its loss after a few epochs of training, averaged over "
        "networks. The paper prunes large datasets and keeps the images of high scores."
    )
    cost = "dynamics: trainings * images * (epochs + (4 if gradient == 'full' else 1) / 3)"

    gradient: Literal["full", "last-layer"] = Field(
        default="full",
        description="parameters of the gradient: all (paper), or those of the last layer, which cost no extra pass",
    )

    @property
    def full_gradient(self) -> bool:
        """Whether the gradient is that in all parameters."""
        return self.gradient == "full"

    def score_name(self) -> str:
        """Returns the name of the chosen gradient."""
        return "gradient" if self.full_gradient else "last_layer_gradient"


class Forgetting(Ranked, frozen=True, extra="forbid"):
    """Selects images by how often training forgets them: they are correct in one epoch and wrong in the next."""

    name = "forgetting"
    version = "1"
    paper = "Toneva et al., An Empirical Study of Example Forgetting, ICLR 2019 (arXiv 1812.05159)"
    summary = (
        "Counts how often training forgets an image: it is correct in one epoch and wrong in the next. The paper keeps "
        "the images that are forgotten most often."
    )
    score = "forgetting"


class AUM(Ranked, frozen=True, extra="forbid"):
    """Selects images by the area under the margin: the mean margin of their logits over the training."""

    name = "aum"
    version = "1"
    paper = "Pleiss et al., Identifying Mislabeled Data using the Area Under the Margin Ranking, NeurIPS 2020"
    summary = (
        "Scores each image by its margin, averaged over the epochs of a training: the logit of its class minus the "
        "largest other logit. The paper finds mislabelled images by low margins; here the margin is a score of "
        "hardness."
    )
    score = "aum"
    sign = -1


class CCS(Scored, frozen=True, extra="forbid"):
    """Removes the hardest images by their margin, then draws from strata of the others, so that all are covered."""

    name = "ccs"
    version = "1"
    paper = "Zheng et al., Coverage-centric Coreset Selection for High Pruning Rates, ICLR 2023 (arXiv 2210.15809)"
    summary = (
        "Removes the hardest images, which are often mislabelled, divides the range of the scores of the others into "
        "strata of equal width, and draws images from every stratum, so that easy and hard images are covered."
    )
    departures = (
        "IPC images of each class are kept, and images are scored, cut off and divided within each class. The share "
        "that is removed is not tuned for each budget, and there are more strata than images at small IPC. The "
        "networks see random-resized-crops instead of shifted images."
    )
    score = "probability_margin"

    cutoff: float = Field(
        default=0.3,
        ge=0,
        lt=1,
        description="share of the hardest images of a class that are removed first, if IPC are left (released: 0.3 to "
        "keep 10 %)",
    )
    strata: int = Field(default=50, ge=1, description="strata of equal width of the margin (paper: 50)")

    def choose(self, features: Tensor, count: int, generator: Generator) -> Tensor:
        """Draws images at random from strata of the margin, without the hardest images.

        Args:
            features: The mean margins of the class's images, float64 [n].
            count: The number of images to select, at most n.
            generator: Draws the images.

        Returns:
            Distinct rows of `features`, int64 [count].

        Example:
            >>> import torch
            >>> margins = torch.tensor([-5.0, 0.0, 0.5, 1.0], dtype=torch.float64)
            >>> CCS(strata=3).choose(margins, 3, torch.Generator()).tolist()
            [1, 2, 3]
        """
        from ddbench.methods.scores import draw_from_strata

        removed = min(int(self.cutoff * len(features)), len(features) - count)
        kept = features.argsort(stable=True)[removed:]
        return kept[draw_from_strata(features[kept], count, self.strata, generator)]
