"""Fills a network with the weights of a checkpoint file, and refuses weights that do not fit."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ddbench.core.errors import DDBenchError
from ddbench.nn.checkpoint_files import Checkpoint
from ddbench.nn.layers import final_classifier


def load_checkpoint(network: nn.Module, checkpoint: Checkpoint, outputs: Sequence[int] | None = None) -> None:
    """Loads the weights of a checkpoint into a network, in place. Loads all of them or none.

    A first convolution of one channel is applied to the mean of the three channels, so a teacher of gray images gives
    the same logits on the same images in RGB.

    Args:
        network: The network to fill.
        checkpoint: The content of the file.
        outputs: For each class of the network, the number of the checkpoint's output for this class. None: the order of
            the outputs is that of the classes.

    Raises:
        DDBenchError: The checkpoint has another number of outputs, or its tensors are missing, unexpected, misshapen or
            not finite. The message is one line.
    """
    weights, expected = dict(checkpoint.weights), network.state_dict()
    head, classifier = final_classifier(network)
    count = output_count(network, checkpoint)
    if outputs is not None:
        for name in (f"{head}.weight", f"{head}.bias"):
            # Rows of another shape are refused below. They could have any size.
            if name in weights and weights[name].shape == (count, *expected[name].shape[1:]):
                weights[name] = weights[name][torch.tensor(outputs)]
    elif count not in (None, classifier.out_features):
        differ = f"checkpoint '{checkpoint.path}' has {count} classes, the dataset {classifier.out_features}"
        is_larger = count is not None and count > classifier.out_features
        raise DDBenchError(f"{differ}; name its classes: --set teacher.classes=FILE" if is_larger else differ)
    stem = _first_convolution(network)
    if stem and has_one_channel(network, checkpoint):
        weights[stem] = weights[stem].expand(-1, 3, -1, -1)
        if weights[stem].shape == expected[stem].shape:
            weights[stem] = weights[stem] / 3
    # Old files lack this counter, and evaluation mode does not read it.
    missing = [name for name in expected.keys() - weights if not name.endswith("num_batches_tracked")]
    reshaped = [name for name in expected.keys() & weights if expected[name].shape != weights[name].shape]
    faults = {
        "is missing": missing,
        "has unexpected": list(weights.keys() - expected),
        "has another shape of": reshaped,
    }
    if not any(faults.values()):
        # Quantised weights are integers without their scales.
        faults["has integers instead of weights in"] = [
            name for name, tensor in weights.items() if expected[name].is_floating_point() > tensor.is_floating_point()
        ]
        # Without the check of the shapes a tensor could have any size. Some dtypes have no test of their own.
        faults["has NaN or infinity in"] = [n for n, tensor in weights.items() if not tensor.float().isfinite().all()]
    if any(faults.values()):
        text = "; ".join(f"{fault} {_first_names(names)}" for fault, names in faults.items() if names)
        hint = _stem_hint(weights[stem]) if stem and stem in reshaped else ""
        raise DDBenchError(
            f"checkpoint '{checkpoint.path}' does not fit this {type(network).__name__}: it {text}{hint}"
        )
    network.load_state_dict(weights, strict=False)


def output_count(network: nn.Module, checkpoint: Checkpoint) -> int | None:
    """Returns the number of outputs of a checkpoint of this network; None if it lacks the classifier of the network."""
    weight = checkpoint.weights.get(f"{final_classifier(network)[0]}.weight")
    return len(weight) if weight is not None and weight.ndim == 2 else None


def has_one_channel(network: nn.Module, checkpoint: Checkpoint) -> bool:
    """Returns whether the first convolution of a checkpoint of this network takes images of one channel."""
    weight = checkpoint.weights.get(_first_convolution(network) or "")
    return weight is not None and weight.ndim == 4 and weight.shape[1] == 1


def _first_convolution(network: nn.Module) -> str | None:
    names = (name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    return next((f"{name}.weight" for name in names), None)


def _stem_hint(convolution: Tensor) -> str:
    """Names the value of `teacher.stem` whose first convolution has the kernel of a checkpoint's, if there is one."""
    stem = {(3, 3): "small (or tiny-released)", (7, 7): "imagenet"}.get((convolution.shape[-2], convolution.shape[-1]))
    size = "x".join(str(side) for side in convolution.shape[2:])
    return f"; its first convolution is {size}: try --set teacher.stem={stem}" if stem else ""


def _first_names(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
