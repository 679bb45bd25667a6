"""A linear probe: logistic regression on the features of a frozen backbone of timm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional

from ddbench.api.measure import MeasureTask
from ddbench.core.errors import DDBenchError, unknown
from ddbench.measures.predictions import BATCH_SIZE, evaluation_batches, outputs
from ddbench.nn.checkpoint_files import read_checkpoint


def load_backbone(name: str, weights: Path, image_size: int) -> nn.Module:
    """Builds a backbone of timm without its classifier and loads its weights. Nothing is downloaded.

    Args:
        name: Name of the network in timm.
        weights: Its weights. Those of the classifier are not used.
        image_size: Side of the images in pixels.

    Returns:
        The backbone, in evaluation mode with frozen parameters.

    Raises:
        DDBenchError: The name is unknown, the file does not fit, or the network does not take such images.
    """
    if not timm.is_model(name):
        raise unknown("backbone of timm (linear-probe.backbone)", name, timm.list_models())
    with torch.random.fork_rng(devices=[]):
        backbone: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    expected, given = backbone.state_dict(), read_checkpoint(weights).weights
    for key, tensor in expected.items():
        if key not in given or given[key].shape != tensor.shape or not given[key].isfinite().all():
            problem = "has no" if key not in given else "has another shape or NaN in"
            raise DDBenchError(f"linear-probe.weights: '{weights}' does not fit {name}: it {problem} '{key}'")
    backbone.load_state_dict({key: given[key] for key in expected})
    backbone.eval().requires_grad_(False)
    try:
        with torch.no_grad():
            backbone(torch.zeros(1, 3, image_size, image_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = f"it takes no images of {image_size} px; set linear-probe.image_size"
        raise DDBenchError(f"linear-probe.backbone {name}: {reason}") from error
    return backbone


def probe_accuracy(task: MeasureTask, name: str, weights: Path, image_size: int, inverse_penalty: float) -> float:
    """Trains the probe on the distilled images and measures it on the evaluation images.

    Args:
        task: The task.
        name: Name of the backbone.
        weights: Its weights.
        image_size: Side that images are resized to, in pixels.
        inverse_penalty: `C` of scikit-learn's LogisticRegression.

    Returns:
        The top-1 in percent.
    """
    backbone = load_backbone(name, weights, image_size).to(task.device)
    config: Any = backbone.pretrained_cfg
    mean, std = (torch.tensor(config[part], device=task.device).view(3, 1, 1) for part in ("mean", "std"))

    def network(images: Tensor) -> Tensor:
        pixels = images.float() / 255
        if pixels.shape[-1] != image_size:
            pixels = functional.interpolate(pixels, (image_size, image_size), mode="bilinear", antialias=True)
        features: Tensor = backbone((pixels - mean) / std)
        return features

    distilled = task.distilled
    train = outputs(network, iter(torch.split(distilled.images, BATCH_SIZE)), task.device).double()
    centre, scale = train.mean(0), train.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)
    probe = LogisticRegression(C=inverse_penalty, max_iter=1000)
    weight = distilled.weights * len(distilled) / distilled.weights.sum()
    probe.fit(((train - centre) / scale).numpy(), distilled.labels.numpy(), sample_weight=weight.numpy())
    val = outputs(network, (images for images, _ in evaluation_batches(task)), task.device).double()
    predicted = torch.from_numpy(probe.predict(((val - centre) / scale).numpy()))
    return 100 * float((predicted == task.dataset.val.labels).double().mean())
