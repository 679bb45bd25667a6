"""Trains networks on real images and measures their accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ddbench.augment import crops, views
from ddbench.core import seeds
from ddbench.core.errors import DDBenchError
from ddbench.nn import memory
from ddbench.nn.build import build_network
from ddbench.nn.device import autocast
from ddbench.training.batches import Batch, prefetch, to_device
from ddbench.training.loop import fit
from ddbench.training.strategy import current_strategy
from ddbench.training.view_batches import ViewBatch, view_batches

if TYPE_CHECKING:
    from ddbench.api.context import CheckpointIO, Progress
    from ddbench.api.images import RealData
    from ddbench.api.settings import TrainingSettings
    from ddbench.api.teacher import Teacher
    from ddbench.config.schema import TeacherConfig


def train_on_real_images(
    network: nn.Module,
    dataset: RealData,
    settings: TrainingSettings,
    seed: int,
    device: torch.device,
    precision: str,
    checkpoint: CheckpointIO | None = None,
    report: Progress | None = None,
    cutmix_alpha: float | None = None,
) -> int:
    """Trains a network in place on the whole training set with random-resized-crop, flip and cross-entropy.

    Every epoch has a new permutation, and keeps its last, smaller batch. Source: torchvision's reference recipe without
    warm-up. The papers use it to train the teacher (the "squeeze" stage of SRe2L). With CutMix, the loss mixes the two
    classes of an image by area. With `settings.start_size`, the images of the first epochs are smaller.

    Args:
        network: The network.
        dataset: The real data.
        settings: Hyper-parameters.
        seed: Seeds the permutations and the views, together with epoch and batch.
        device: The device to train on.
        precision: `fp32` or `bf16`.
        checkpoint: The checkpoint; see `fit`.
        report: Called after every epoch; see `fit`.
        cutmix_alpha: alpha of CutMix's Beta(alpha, alpha) distribution; None: no CutMix.

    Returns:
        The number of optimiser steps.

    Raises:
        DDBenchError: A loss, the network or the optimiser is not finite.
    """
    images, sizes, scale = dataset.train, settings.sizes(dataset.info.image_size), (settings.crop_scale_min, 1.0)
    labels, shard = to_device(images.labels, device), current_strategy().shard

    def read(rows: Tensor) -> Tensor:
        return images.read(rows)[0]

    def epoch_batches(epoch: int) -> Iterator[Batch]:
        size = sizes[epoch]
        drawn = views.epoch_views(
            len(images), images.sizes, seed, epoch, settings.batch_size, scale, cutmix_alpha, image_size=size
        )
        for batch in view_batches(read, dataset, drawn, device, shard, size):
            yield Batch(batch.images, partial(_cross_entropy, labels, batch), batch.global_size)

    fit(network, epoch_batches, settings, device, precision, checkpoint, report, seed=seed)
    return settings.epochs * len(views.batch_slices(len(images), settings.batch_size))


def _cross_entropy(labels: Tensor, batch: ViewBatch, logits: Tensor) -> Tensor:
    own = functional.cross_entropy(logits, labels[batch.rows])
    if batch.share == 1:
        return own
    return batch.share * own + (1 - batch.share) * functional.cross_entropy(logits, labels[batch.pasted])


def train_teacher(
    dataset: RealData,
    config: TeacherConfig,
    device: torch.device,
    precision: str,
    checkpoint: CheckpointIO | None = None,
    report: Progress | None = None,
) -> nn.Module:
    """Trains the teacher ("squeeze") from scratch on the training set.

    Args:
        dataset: The real data.
        config: Architecture, seed and hyper-parameters.
        device: The device to train on.
        precision: `fp32` or `bf16`.
        checkpoint: The checkpoint; see `fit`.
        report: Called after every epoch; see `fit`.

    Returns:
        The teacher, in evaluation mode.

    Raises:
        DDBenchError: A loss, the network or the optimiser is not finite.
    """
    seed = seeds.derive("teacher", config.seed)
    classes, size = dataset.info.num_classes, dataset.info.image_size
    network = build_network(config.arch, classes, size, config.stem, seed=seed)
    train_on_real_images(network, dataset, config, seed, device, precision, checkpoint, report)
    return network.eval()


def accuracy(
    network: nn.Module,
    dataset: RealData,
    split: Literal["train", "val"],
    device: torch.device,
    precision: str,
    batch_size: int = 256,
) -> tuple[float, list[float]]:
    """Computes the top-1 accuracy of a network on the evaluation view of every image of a split.

    The network is left in evaluation mode. A batch that does not fit into memory passes through the network in parts.

    Args:
        network: The network; it is moved to `device`.
        dataset: The real data.
        split: `train` or `val`.
        device: The device.
        precision: `fp32` or `bf16`.
        batch_size: Images per batch.

    Returns:
        The top-1 over all images, and the top-1 of each class in class order, in percent. A class without images
        counts as 0.

    Raises:
        DDBenchError: A logit is not finite.
    """
    images = dataset.train if split == "train" else dataset.val
    predicted = predictions(network, dataset, split, device, precision, batch_size)
    return accuracy_of(predicted, images.labels, dataset.info.num_classes)


@torch.no_grad()
def predictions(
    network: nn.Module,
    dataset: RealData,
    split: Literal["train", "val"],
    device: torch.device,
    precision: str,
    batch_size: int = 256,
) -> Tensor:
    """Predicts the class of every image of a split; see `accuracy` for the arguments.

    Returns:
        int64 [n], on the CPU.

    Raises:
        DDBenchError: A logit is not finite.
    """
    images = dataset.train if split == "train" else dataset.val
    network.to(device).eval()
    mean, std = dataset.mean.to(device), dataset.std.to(device)
    indices = torch.split(torch.arange(len(images)), batch_size)

    def predict(pixels: Tensor) -> tuple[Tensor, Tensor]:
        batch = crops.normalise(to_device(pixels, device), mean, std)
        with autocast(device, precision):
            logits = network(batch.contiguous(memory_format=torch.channels_last))
        return logits.argmax(1), logits.isfinite().all(1)

    predict_in_parts = memory.in_parts(predict, "images")
    with closing(prefetch((images.centre(part, dataset.info.image_size) for part in indices), device)) as loaded:
        batches = [predict_in_parts(pixels) for pixels in loaded]
    predicted, finite = (torch.cat(column).cpu() for column in zip(*batches, strict=True))
    if not bool(finite.all()):
        raise DDBenchError(
            f"accuracy: the network's logits of {int((~finite).sum())} of {len(images)} images of {split} "
            "are not finite"
        )
    return predicted


def accuracy_of(predicted: Tensor, labels: Tensor, classes: int) -> tuple[float, list[float]]:
    """Computes top-1 accuracies from predictions.

    Args:
        predicted: int64 [n], the predicted classes.
        labels: int64 [n], the true classes.
        classes: Number of classes.

    Returns:
        As `accuracy`.
    """
    correct = (predicted == labels).double()
    correct_per_class = torch.bincount(labels, weights=correct, minlength=classes)
    counts = torch.bincount(labels, minlength=classes).clamp(min=1)
    return 100 * float(correct.mean()), (100 * correct_per_class / counts).tolist()


@torch.no_grad()
def class_confidence(
    teacher: Teacher, dataset: RealData, label: int, device: torch.device, batch_size: int = 256
) -> Tensor:
    """Computes the logarithm of the teacher's probability of a class for each training image of the class.

    Args:
        teacher: The teacher, on `device`.
        dataset: The real data.
        label: The class.
        device: The device.
        batch_size: Images per pass.

    Returns:
        float64 [n], on the CPU, in the order of `dataset.train.of_class(label)`.
    """
    parts = []
    for rows in torch.split(dataset.train.of_class(label), batch_size):
        logits = teacher(dataset.evaluation_view("train", rows).to(device), bn=False).logits
        parts.append(logits.double().log_softmax(1)[:, label].cpu())
    return torch.cat(parts)
