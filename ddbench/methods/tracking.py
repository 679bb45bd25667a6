"""Trains a network on the real images and scores them by its training."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ddbench.augment import views
from ddbench.core import seeds
from ddbench.methods.scores import History, error_norms, gradient_norms, last_layer_gradient_norms
from ddbench.nn.build import build_network
from ddbench.nn.memory import in_parts
from ddbench.nn.taps import TappedNetwork
from ddbench.training.batches import Batch, to_device
from ddbench.training.loop import fit
from ddbench.training.schedules import Schedule, constant, cosine, fifths_at_30_60_80
from ddbench.training.state import ExtendedCheckpoint
from ddbench.training.view_batches import ViewBatch, view_batches

if TYPE_CHECKING:
    from ddbench.api.context import CheckpointIO
    from ddbench.api.images import RealData
    from ddbench.api.stage import StageRun
    from ddbench.methods.coresets import Scored

IMAGES_PER_PASS = 256


SCHEDULES: dict[str, Schedule] = {"constant": constant, "steps": fifths_at_30_60_80, "cosine": cosine}


def track(run: StageRun, method: Scored, part: int, checkpoint: CheckpointIO) -> dict[str, Tensor]:
    """Trains one network on all training images and scores every image.

    Margins and forgetting events are those of the augmented views that the network is trained on, before each step, as
    in the papers. EL2N and GraNd are computed after the last epoch, on central views and in evaluation mode, as in the
    code of their paper.

    Args:
        run: The run that needs the scores.
        method: A method, for the settings of the training.
        part: The number of the network. It seeds weights and views.
        checkpoint: The checkpoint of the training.

    Returns:
        Scores by name, float64 [n], in the order of the training images.

    Raises:
        DDBenchError: A loss, the network or the optimiser is not finite.
    """
    dataset, device = run.dataset, run.device
    images, size = dataset.train, dataset.info.image_size
    seed, settings = seeds.derive("dynamics", part), method.training()
    network = build_network(method.network, dataset.info.num_classes, size, seed=seed)
    labels, history = to_device(images.labels, device), History(len(images), device)

    def loss(batch: ViewBatch, logits: Tensor) -> Tensor:
        history.record(batch.rows, logits, labels[batch.rows])
        return nn.functional.cross_entropy(logits, labels[batch.rows])

    def epoch_batches(epoch: int) -> Iterator[Batch]:
        drawn = views.epoch_views(len(images), images.sizes, seed, epoch, settings.batch_size, image_size=size)
        for batch in view_batches(lambda rows: images.read(rows)[0], dataset, drawn, device):
            yield Batch(batch.images, partial(loss, batch))
        history.finish_epoch()  # after the last step, before the checkpoint of the epoch is saved

    fit(
        network,
        epoch_batches,
        settings,
        device,
        run.precision,
        ExtendedCheckpoint(checkpoint, history.tensors),
        run.report,
        seed=seed,
        schedule=SCHEDULES[method.schedule],
    )
    scores = history.scores(settings.epochs) | final_scores(network, dataset, device, method.full_gradient)
    return {name: score.cpu().contiguous() for name, score in scores.items()}


@torch.no_grad()
def final_scores(network: nn.Module, dataset: RealData, device: torch.device, full: bool) -> dict[str, Tensor]:
    """Computes the scores of every training image that need one pass of a trained network, in float32.

    Args:
        network: The network, on `device`. It is left in evaluation mode, with frozen parameters.
        dataset: The real data.
        device: The device.
        full: Whether to compute the gradient in all parameters, too.

    Returns:
        `el2n`, `last_layer_gradient` and, with `full`, `gradient`: float64 [n].
    """
    labels = to_device(dataset.train.labels, device)
    parts = torch.split(torch.arange(len(labels)), IMAGES_PER_PASS)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in parts:
            batch = dataset.evaluation_view("train", rows).to(device)
            yield batch.contiguous(memory_format=torch.channels_last), labels[rows.to(device)]

    network.eval()
    scores: dict[str, list[Tensor]] = {"el2n": [], "last_layer_gradient": []}
    if full:
        scores["gradient"] = [gradient_norms(network, *batch) for batch in batches()]
    tapped = TappedNetwork(network)

    def forward(batch: Tensor) -> tuple[Tensor, Tensor]:
        output = tapped(batch, bn=False)
        return output.logits, output.features

    passes = in_parts(forward, "images")
    for batch, of_batch in batches():
        logits, features = passes(batch)
        scores["el2n"].append(error_norms(logits, of_batch))
        scores["last_layer_gradient"].append(last_layer_gradient_norms(logits, features, of_batch))
    return {name: torch.cat(parts) for name, parts in scores.items()}
