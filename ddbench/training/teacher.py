"""The one training loop: teacher, student and the full-data reference; and how accuracy is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ddbench.augment import crops as crops_module
from ddbench.augment import views
from ddbench.core import seeds
from ddbench.core.errors import DDBenchError
from ddbench.nn import memory
from ddbench.nn.build import build_network
from ddbench.nn.device import autocast
from ddbench.training import strategy
from ddbench.training.batches import Batch, prefetched, to_device
from ddbench.training.loop import Report, fit

if TYPE_CHECKING:
    from ddbench.api.context import CheckpointIO, RealData
    from ddbench.api.settings import TrainingSettings
    from ddbench.config.schema import TeacherConfig


def train_on_real_images(
    network: nn.Module,
    dataset: RealData,
    settings: TrainingSettings,
    seed: int,
    device: torch.device,
    precision: str,
    checkpoint: CheckpointIO | None = None,
    report: Report | None = None,
) -> int:
    """Trains `network` in place on the whole training set: random-resized-crop, flip, cross-entropy.

    A fresh permutation an epoch, the last partial batch kept, views seeded by (`seed`, epoch, batch). Returns
    the number of optimiser steps. Source: torchvision's reference recipe without warm-up, as the papers'
    squeeze stage.
    """
    images, size = dataset.train, dataset.info.image_size
    mean, std = dataset.mean.to(device), dataset.std.to(device)
    share = strategy.current_strategy().share

    def epoch_batches(epoch: int) -> Iterator[Batch]:
        seen = views.epoch_views(len(images), images.sizes, seed, epoch, settings.batch_size)
        boxes, flips = to_device(seen.boxes, device), to_device(seen.flips, device)
        labels = to_device(images.labels[seen.order], device)
        mine = [share(part) for part in seen.batches]
        with closing(prefetched((images.read(seen.order[part])[0] for part in mine), device)) as loaded:
            for batch, part, pixels in zip(seen.batches, mine, loaded, strict=True):
                whole = to_device(pixels, device).float() / 255
                crops = crops_module.crop_resize(whole, boxes[part], size, flips[part])
                count = batch.stop - batch.start
                yield Batch(crops_module.normalise(crops, mean, std), _cross_entropy(labels[part]), count)

    fit(network, epoch_batches, settings, device, precision, checkpoint, report, seed=seed)
    return settings.epochs * len(views.batch_slices(len(images), settings.batch_size))


def _cross_entropy(labels: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda logits: functional.cross_entropy(logits, labels)


def train_teacher(
    dataset: RealData,
    config: TeacherConfig,
    device: torch.device,
    precision: str,
    checkpoint: CheckpointIO | None = None,
    report: Report | None = None,
) -> nn.Module:
    """The teacher ("squeeze"): `config.arch` trained from scratch on the training set, in eval mode."""
    seed = seeds.derive("teacher", config.seed)
    classes, size = dataset.info.num_classes, dataset.info.image_size
    network = build_network(config.arch, classes, size, config.stem, seed=seed)
    train_on_real_images(network, dataset, config, seed, device, precision, checkpoint, report)
    return network.eval()


@torch.no_grad()
def accuracy(
    network: nn.Module,
    dataset: RealData,
    split: Literal["train", "val"],
    device: torch.device,
    precision: str,
    batch_size: int = 256,
) -> tuple[float, list[float]]:
    """Top-1 in percent of every image of `split` in its evaluation view, and of each class in class order.

    A class without an image counts 0. Leaves the network in eval mode. Where memory runs out a batch goes through the
    network in parts. Raises DDBenchError where logits are not finite: they say nothing.
    """
    images = dataset.train if split == "train" else dataset.val
    network.to(device).eval()
    mean, std = dataset.mean.to(device), dataset.std.to(device)
    rows = torch.arange(len(images))
    parts = [rows[start : start + batch_size] for start in range(0, len(images), batch_size)]

    def guess(pixels: Tensor) -> tuple[Tensor, Tensor]:
        batch = crops_module.normalise(to_device(pixels, device), mean, std)
        with autocast(device, precision):
            logits = network(batch.contiguous(memory_format=torch.channels_last))
        return logits.argmax(1), logits.isfinite().all(1)

    in_parts = memory.in_parts(guess, "images")
    with closing(prefetched((images.centre(part, dataset.info.image_size) for part in parts), device)) as loaded:
        found = [in_parts(pixels) for pixels in loaded]
    guesses, sound = (torch.cat(column).cpu() for column in zip(*found, strict=True))
    if not bool(sound.all()):
        raise DDBenchError(
            f"accuracy: the network's logits of {int((~sound).sum())} of {len(images)} images of {split} are not finite"
        )
    right = (guesses == images.labels).double()
    classes = dataset.info.num_classes
    hits = torch.bincount(images.labels, weights=right, minlength=classes)
    counts = torch.bincount(images.labels, minlength=classes).clamp(min=1)
    return 100 * float(right.mean()), (100 * hits / counts).tolist()
