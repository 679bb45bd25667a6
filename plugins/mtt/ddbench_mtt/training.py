"""Training of one expert: SGD on the real images with siamese augmentation, keeping the parameters of every epoch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ddbench.api import StageRun, TrainingSettings, seeds
from ddbench.augment import augment, batch_slices, draw_augmentation
from ddbench.nn import build_network
from ddbench.training import Batch, ExtendedCheckpoint, accuracy, constant, fit, prefetch, to_device
from ddbench_mtt.experts import ExpertSettings, snapshot
from ddbench_mtt.flat import SurrogateGap

if TYPE_CHECKING:
    from ddbench.api import CheckpointIO


def as_vector(network: nn.Module) -> Tensor:
    """Returns a copy of the parameters of a network as one vector [P], in the order of `named_parameters`.

    >>> as_vector(nn.Linear(2, 3)).shape
    torch.Size([9])
    """
    return torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])


def train_expert(
    settings: ExpertSettings, run: StageRun, part: int, checkpoint: CheckpointIO
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Trains one expert with SGD at a constant learning rate (MTT, section 3.2, and the released code).

    The gradients are those of the loss, or those of GSAM for a flat trajectory (FTD). GSAM computes in float32 in every
    precision, because the two gradients of a step differ by less than the rounding of bf16.

    Every epoch visits all training images, in their evaluation view, in a new random order and keeps its last, smaller
    batch. One operation of siamese augmentation is drawn per batch, with separate parameters for each image.

    Args:
        settings: The hyper-parameters.
        run: Real data, device, precision, progress.
        part: The number of the expert, which seeds all its draws.
        checkpoint: The checkpoint of the part.

    Returns:
        The snapshots, float32 [P], by the name that `snapshot` returns; and the top-1 of the last one, as `top1`.

    Raises:
        DDBenchError: A loss or the network is not finite.
    """
    dataset, info, device = run.dataset, run.info, run.device
    seed = seeds.derive("expert", part)
    network = build_network(settings.network, info.num_classes, info.image_size, seed=seed)
    snapshots: dict[str, Tensor] = {}
    labels = to_device(dataset.train.labels, device)

    def keep(epoch: int) -> None:
        # A training that resumes within an epoch has kept the parameters at its start.
        if snapshot(epoch) not in snapshots:
            snapshots[snapshot(epoch)] = as_vector(network).float().cpu()

    def epoch_batches(epoch: int) -> Iterator[Batch]:
        keep(epoch)
        order = torch.randperm(len(labels), generator=seeds.generator("expert", part, epoch, "order"))
        draws = seeds.generator("expert", part, epoch, "augmentation")
        rows = [order[rows] for rows in batch_slices(len(order), settings.expert_batch)]
        with closing(prefetch((dataset.train.centre(row, info.image_size) for row in rows), device)) as read:
            for row, pixels in zip(rows, read, strict=True):
                images = dataset.normalise(to_device(pixels, device))
                if settings.strategy is not None:
                    view = draw_augmentation(settings.strategy, info.image_size, draws, len(images))
                    images = augment(images, view)
                yield Batch(images, partial(cross_entropy, labels[to_device(row, device)]))

    training = TrainingSettings(
        learning_rate=settings.expert_learning_rate,
        momentum=settings.expert_momentum,
        weight_decay=0,
        batch_size=settings.expert_batch,
        epochs=settings.expert_epochs,
    )
    fit(
        network,
        epoch_batches,
        training,
        device,
        "fp32" if settings.surrogate_gap else run.precision,
        ExtendedCheckpoint(checkpoint, snapshots),
        run.report,
        seed=seed,
        schedule=constant,
        gradient=SurrogateGap(*settings.surrogate_gap) if settings.surrogate_gap else None,
    )
    keep(settings.expert_epochs)
    top1, _ = accuracy(network, dataset, "val", device, run.precision)
    return snapshots, {"top1": top1}


def cross_entropy(labels: Tensor, logits: Tensor) -> Tensor:
    """Returns the mean cross-entropy of a batch."""
    return functional.cross_entropy(logits, labels)
