"""A frozen backbone and its classifier: loading a backbone, training the classifier, the network that is inverted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ddbench.api import DatasetInfo, DDBenchError, StageRun, TrainingSettings, seeds
from ddbench.nn import TappedNetwork, batch_norms, build_network, final_classifier, read_checkpoint
from ddbench.training import accuracy, train_on_real_images

if TYPE_CHECKING:
    from ddbench.api import CheckpointIO, DistillTask
    from ddbench_sre2l.scdd import SCDD


class FrozenBackbone(nn.Module):
    """A classifier of which only the last linear layer is trained. It is always in evaluation mode.

    So the running BatchNorm statistics remain those of the backbone (paper, section 3: the backbone is not fine-tuned).

    Args:
        network: The classifier. All its parameters but those of the last linear layer are frozen in place.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        final_classifier(network)[1].requires_grad_(True)
        self.eval()

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Keeps evaluation mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits [B, K]."""
        logits: Tensor = self.network(images)
        return logits


def build(method: SCDD, info: DatasetInfo) -> nn.Module:
    """Builds the network of a method with random initial weights, on the CPU.

    Raises:
        DDBenchError: The method matches BatchNorm statistics, and the network has none.
    """
    network = build_network(method.network, info.num_classes, info.image_size, seed=seeds.derive("backbone"))
    if method.bn_weight and not batch_norms(network):
        raise DDBenchError(
            f"{method.name} matches BatchNorm statistics, and {method.network} has none: take another "
            f"{method.name}.network (e.g. convnet-bn-d3), or --set {method.name}.bn_weight=0"
        )
    return network


def backbone_state(network: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters and buffers of a network without those of its classifier, on the CPU."""
    head, _ = final_classifier(network)
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
        if name.rpartition(".")[0] != head
    }


def load_backbone(network: nn.Module, path: Path) -> dict[str, Tensor]:
    """Reads the backbone of a network from a checkpoint of self-supervised training.

    Projection heads, queues and a classifier in the file are ignored. A file can hold several networks, each with a
    prefix, such as `encoder_q.` and `encoder_k.` of MoCo. The first one that fits is used.

    Args:
        network: The network, which gives the names and shapes.
        path: A file that `ddbench.nn.read_checkpoint` accepts.

    Returns:
        The backbone, as `backbone_state` returns it.

    Raises:
        DDBenchError: No network in the file fits.
    """
    weights, expected = read_checkpoint(path).weights, backbone_state(network)
    first, *_ = needed = [name for name in expected if not name.endswith("num_batches_tracked")]
    unfit = [first]
    for prefix in [name.removesuffix(first) for name in weights if name == first or name.endswith(f".{first}")]:
        unfit = [f"{prefix}{name}" for name in needed if not _fits(weights.get(f"{prefix}{name}"), expected[name])]
        if not unfit:
            return {name: weights.get(f"{prefix}{name}", tensor).contiguous() for name, tensor in expected.items()}
    raise DDBenchError(
        f"checkpoint '{path}' does not fit this {type(network).__name__} (scdd.network): '{unfit[0]}' is missing, has "
        "another shape, or is not finite"
    )


def _fits(tensor: Tensor | None, expected: Tensor) -> bool:
    return tensor is not None and tensor.shape == expected.shape and bool(tensor.float().isfinite().all())


def train_head(method: SCDD, run: StageRun, checkpoint: CheckpointIO) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Trains the classifier on the features of the frozen backbone, with crops, flips and cross-entropy.

    Args:
        method: The hyper-parameters.
        run: Real data, backbone, device, precision, progress.
        checkpoint: The checkpoint.

    Returns:
        `weight` and `bias` of the classifier, and the top-1 on `dataset.val`, as `top1`.

    Raises:
        DDBenchError: A loss or the classifier is not finite.
    """
    network = build(method, run.info)
    network.load_state_dict(run.tensors("backbone"), strict=False)
    settings = TrainingSettings(
        learning_rate=method.head_learning_rate,
        weight_decay=0,
        batch_size=method.head_batch,
        epochs=method.head_epochs,
    )
    probed, seed = FrozenBackbone(network), seeds.derive("head")
    train_on_real_images(probed, run.dataset, settings, seed, run.device, run.precision, checkpoint, run.report)
    top1, _ = accuracy(probed, run.dataset, "val", run.device, run.precision)
    if top1 < 5 + 100 / run.info.num_classes:
        run.note(
            f"the classifier on the backbone is near chance ({top1:.2f} %): raise scdd.backbone_epochs or give one"
        )
    _, classifier = final_classifier(network)
    return {name: value.detach().cpu() for name, value in classifier.state_dict().items()}, {"top1": top1}


def inverted_network(method: SCDD, task: DistillTask) -> TappedNetwork:
    """Returns the backbone with its classifier, on the task's device."""
    network = build(method, task.info)
    head, _ = final_classifier(network)
    classifier = {f"{head}.{name}": tensor for name, tensor in task.tensors("head").items()}
    network.load_state_dict({**task.tensors("backbone"), **classifier})
    tapped: TappedNetwork = TappedNetwork(network).to(task.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return tapped
