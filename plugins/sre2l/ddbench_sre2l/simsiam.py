"""Training of a backbone without labels: SimSiam (Chen and He, CVPR 2021)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from ddbench.api import RealData, StageRun, TrainingSettings, seeds
from ddbench.augment import batch_slices, crop_resize, random_boxes, random_colours, shift_colours
from ddbench.nn import final_classifier
from ddbench.training import Batch, fit, prefetch, to_device
from ddbench_sre2l.probe import backbone_state

if TYPE_CHECKING:
    from ddbench.api import CheckpointIO
    from ddbench_sre2l.scdd import SCDD

WIDTH, BOTTLENECK = 2048, 512
"""Width of the projection, and of the hidden layer of the predictor (section 3). Hidden layers of the projection have
the width of the features, as in the released code (`facebookresearch/simsiam:simsiam/builder.py`)."""
CROP_SCALE = (0.2, 1.0)
COLOURS, COLOUR_SHARE, GREY_SHARE = 0.4, 0.8, 0.2
"""Strength of the colour jitter, and the shares of views with colour jitter and without colours (section 3)."""


class SimSiam(nn.Module):
    """A backbone with a projection of three layers and a predictor of two.

    Args:
        network: A classifier. Its classifier is replaced by the identity in place.

    Attributes:
        network: The backbone, with features [B, d].
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        name, classifier = final_classifier(network)
        parent, _, attribute = name.rpartition(".")
        width = classifier.in_features
        setattr(network.get_submodule(parent), attribute, nn.Identity())
        self.network = network
        self.projection = nn.Sequential(
            *_hidden(width, width),
            *_hidden(width, width),
            nn.Linear(width, WIDTH, bias=False),
            nn.BatchNorm1d(WIDTH, affine=False),
        )
        self.predictor = nn.Sequential(*_hidden(WIDTH, BOTTLENECK), nn.Linear(BOTTLENECK, WIDTH))

    def forward(self, views: Tensor) -> Tensor:
        """Computes predictions and projections of two views of each image.

        The two halves pass separately through the network, so that each has its own batch statistics.

        Args:
            views: The first views of B images, then the second views, [2B, 3, S, S].

        Returns:
            p1, p2, z1 and z2 of the paper, [4, B, WIDTH].
        """
        projections = [self.projection(self.network(half)) for half in views.chunk(2)]
        return torch.stack([*map(self.predictor, projections), *projections])


def _hidden(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()


def simsiam_loss(outputs: Tensor) -> Tensor:
    """Computes half the sum of the negative cosine similarities of p1 to z2 and of p2 to z1, without gradient in z.

    Source: paper, Eq. 2 to 4.

    Args:
        outputs: p1, p2, z1 and z2, [4, B, d].

    Returns:
        A scalar in [-1, 1]: the mean over the images.

    Example:
        >>> same = torch.eye(2).expand(4, 2, 2)
        >>> simsiam_loss(same).item()
        -1.0
    """
    first, second, z1, z2 = outputs.unbind()
    similarity = functional.cosine_similarity(first, z2.detach()) + functional.cosine_similarity(second, z1.detach())
    return -similarity.mean() / 2


def two_views(pixels: Tensor, sizes: Tensor, dataset: RealData, generator: torch.Generator) -> Tensor:
    """Draws two views of each image: crop, flip, colour jitter, and a share of grey views.

    Source: paper, section 3, without hue and blur.

    Args:
        pixels: The images, uint8 [B, 3, H, W].
        sizes: Their heights and widths, int64 [B, 2], on the CPU.
        dataset: The real data, for size and normalisation.
        generator: Source of the random draws, on the CPU.

    Returns:
        The first views, then the second views, normalised, float32 [2B, 3, S, S], on the device of `pixels`.
    """
    count, device = 2 * len(pixels), pixels.device
    boxes = random_boxes(sizes.repeat(2, 1), CROP_SCALE, generator=generator)
    flips = torch.rand(count, generator=generator) < 0.5
    colours = random_colours(count, COLOURS, 0.0, generator)
    colours.shares[torch.rand(count, generator=generator) >= COLOUR_SHARE] = 0
    grey = to_device(torch.rand(count, generator=generator) < GREY_SHARE, device)
    views = crop_resize((pixels.float() / 255).repeat(2, 1, 1, 1), boxes, dataset.info.image_size, flips)
    views = shift_colours(views, colours.to(device)).clamp(0, 1)
    luma = views.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    views = torch.where(grey[:, None, None, None], (views * luma).sum(1, keepdim=True), views)
    return dataset.normalise(views)


def train_backbone(network: nn.Module, method: SCDD, run: StageRun, checkpoint: CheckpointIO) -> dict[str, Tensor]:
    """Trains a backbone with SimSiam on the training images, with SGD and a cosine schedule.

    Args:
        network: The network with its initial weights.
        method: The hyper-parameters.
        run: Real data, device, precision, progress.
        checkpoint: The checkpoint.

    Returns:
        The backbone, as `backbone_state` returns it.

    Raises:
        DDBenchError: A loss or the network is not finite.
    """
    dataset, images, seed = run.dataset, run.dataset.train, seeds.derive("simsiam")
    names = backbone_state(network).keys()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = SimSiam(network)

    def epoch_batches(epoch: int) -> Iterator[Batch]:
        order = torch.randperm(len(images), generator=seeds.generator("simsiam", epoch, "order"))
        draws = seeds.generator("simsiam", epoch, "views")
        rows = [order[part] for part in batch_slices(len(order), method.backbone_batch)]
        with closing(prefetch((images.read(part) for part in rows), run.device)) as read:
            for pixels, sizes in read:
                yield Batch(two_views(to_device(pixels, run.device), sizes, dataset, draws), simsiam_loss)

    settings = TrainingSettings(
        learning_rate=method.backbone_learning_rate,
        weight_decay=method.backbone_weight_decay,
        batch_size=method.backbone_batch,
        epochs=method.backbone_epochs,
    )
    fit(model, epoch_batches, settings, run.device, run.precision, checkpoint, run.report, seed=seed)
    state = model.network.state_dict()
    return {name: state[name].cpu().contiguous() for name in names}
