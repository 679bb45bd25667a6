"""Finds images, labels and the other parts of a distilled set in the tensors of a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ddbench.config.given_sets import SPACES, ZCA
from ddbench.core.errors import DDBenchError
from ddbench.core.text import counted
from ddbench.distillation.distilled_set import to_uint8
from ddbench.distillation.units import EXTRAS, are_probabilities, are_weights
from ddbench.nn.checkpoint_files import read_torch_file, reason_unreadable

IMAGES = ("images", "data", "x")
LABELS = ("labels", "targets", "y")
RATES = ("learning_rate", "syn_lr", "lr")
"""Names of the student's learning rate: of ddbench, MTT and DATM."""
LARGEST_NORMALISED = 20.0
"""Larger values are not those of normalised images, even of images that were optimised without bounds."""
ROUNDING = 0.1
"""Floats that are this close to whole levels of 255 are bytes. Half precision errs by 0.06 levels."""


def read_content(path: Path) -> Any:
    """Reads the tensors of a file of torch.save, npz or safetensors. Nothing is unpickled.

    Args:
        path: The file.

    Returns:
        The content. Of a safetensors file, the entries `class_names` and `pixels` are those of its header.

    Raises:
        DDBenchError: It cannot be read. The message is one line.
    """
    advice = "save its tensors alone: torch.save({'images': images, 'labels': labels}, PATH)"
    try:
        if path.suffix.lower() == ".safetensors":
            with safe_open(str(path), framework="pt") as handle:
                header = handle.metadata() or {}
                remarks = {"class_names": json.loads(header.get("class_names", "null")), "pixels": header.get("pixels")}
                return {**remarks, **{name: handle.get_tensor(name) for name in list(handle.keys())}}
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        return read_torch_file(path)
    except Exception as error:  # a damaged or malicious file may raise anything
        reason = reason_unreadable(path, error, advice)
        if path.suffix.lower() == ".npz" and "allow_pickle" in str(error):
            reason = "it holds Python objects, and nothing is unpickled: save arrays of numbers alone"
        raise DDBenchError(f"{path} cannot be read as a distilled set: {reason}") from error


def find_images(path: Path, content: Any) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Finds images and labels: entries of a dict, a list of the two, or a list of such lists under `data` (DC, DM).

    Args:
        path: The file, for messages.
        content: Its content.

    Returns:
        The images, the labels, and what was left out, in sentences.

    Raises:
        DDBenchError: There are none. The message is one line.
    """
    notes: tuple[str, ...] = ()
    if isinstance(content, Mapping) and isinstance(content.get("data"), list | tuple):
        content = content["data"]
        if content and all(isinstance(entry, list | tuple) for entry in content):
            if len(content) > 1:
                notes = (f"the file holds {len(content)} sets: the first one is read",)
            content = content[0]
    if isinstance(content, list | tuple) and len(content) == 2:
        content = {"images": content[0], "labels": content[1]}
    if isinstance(content, Mapping):
        images = next((content[name] for name in IMAGES if name in content), None)
        labels = next((content[name] for name in LABELS if name in content), None)
        if is_plain(images) and is_plain(labels) and images.ndim == 4 and len(images):
            return _widened(images), _widened(labels), notes
    raise DDBenchError(
        f"{path} does not hold images [n, 3, H, W] and labels [n]: a dict with the entries "
        f"{' or '.join(IMAGES[:2])} and {LABELS[0]}, or a list of both tensors, is needed"
    )


def to_pixels(path: Path, images: Tensor, pixels: str | None, is_declared: bool = False) -> tuple[Tensor, str]:
    """Converts images to the form in which a set is stored.

    Args:
        path: The file, for messages.
        images: Numbers [n, 3, H, W], [n, 1, H, W] or [n, H, W, 3].
        pixels: The space of floats; see `SPACES`.
        is_declared: Whether the file itself names the space, so that no range contradicts it.

    Returns:
        uint8 [n, 3, H, W] if the values are those of bytes, else float32 with 0 for black and 1 for white; and a note
        if they are floats.

    Raises:
        DDBenchError: The images are no images, not finite, or contradict `pixels`. The message is one line.
    """
    images = _with_three_channels(path, images)
    if not bool(images.isfinite().all()):
        raise DDBenchError(f"{path}: the images are not finite (NaN or infinity)")
    if pixels == ZCA:
        raise DDBenchError(
            f"--pixels {ZCA}: the images of {path} are whitened, and the protocols measure on images that are not: "
            "apply the inverse transform of the code that made them, and name the space of the result"
        )
    low, high = float(images.min()), float(images.max())
    ranges = f"{path}: the values of the images are from {low:.4g} to {high:.4g}"
    if images.dtype == torch.uint8:
        if pixels not in (None, "unit"):
            raise DDBenchError(f"--pixels {pixels}: the images of {path} are bytes, not normalised floats")
        return images.contiguous(), ""
    if not images.is_floating_point():
        raise DDBenchError(f"{path}: the images are integers of another type than uint8; uint8 or floats are needed")
    if pixels is None:
        raise DDBenchError(f"{ranges}: name their space with --pixels {'|'.join(SPACES)}")
    if pixels == "unit" and not is_declared and (low < -1e-4 or high > 1 + 1e-4):
        raise DDBenchError(f"{ranges}, which contradicts --pixels unit (0 to 1)")
    if pixels != "unit" and (low >= 0 or max(-low, high) > LARGEST_NORMALISED):
        likely = "unit" if low >= 0 and high <= 1 + 1e-4 else "another space"
        raise DDBenchError(f"{ranges}, which contradicts --pixels {pixels}: they look like {likely}")
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in SPACES[pixels])
    unit = images.float() * std + mean if pixels != "unit" else images.float().contiguous()
    levels = to_uint8(unit, None)
    if bool(((unit * 255 - levels.float()).abs() <= ROUNDING).all()):
        return levels, ""
    share = float(((unit < -0.5 / 255) | (unit > 1 + 0.5 / 255)).float().mean())
    return unit, f"the images are floats, {share:.1%} of their values beyond black or white"


def _with_three_channels(path: Path, images: Tensor) -> Tensor:
    if images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    if images.shape[1] not in (1, 3) or min(images.shape) == 0:
        raise DDBenchError(f"{path}: the images have the shape {list(images.shape)}; [n, 3, H, W] is needed")
    return images.expand(-1, 3, -1, -1)


def split_labels(path: Path, labels: Tensor, count: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Splits labels into classes and soft labels.

    Args:
        path: The file, for messages.
        labels: Class numbers [n] or soft labels [n, K].
        count: The number of images n.

    Returns:
        The classes, int64 [n], which are the largest soft label of each image; and soft labels as `probabilities` if
        each row sums to 1, else as `logits` (float32 [n, K]).

    Raises:
        DDBenchError: They are no labels of these images. The message is one line.
    """
    if len(labels) != count or labels.ndim not in (1, 2):
        raise DDBenchError(f"{path}: {counted(count, 'image')} with labels of the shape {list(labels.shape)}")
    if labels.ndim == 2 and labels.shape[1] > 1:
        if not bool(labels.isfinite().all()):
            raise DDBenchError(f"{path}: the labels are not finite (NaN or infinity)")
        soft = labels.float()
        return soft.argmax(1), {"probabilities" if are_probabilities(soft) else "logits": soft}
    labels = labels.flatten()
    if bool((labels != labels.long()).any()):  # also NaN
        raise DDBenchError(f"{path}: the labels are not whole numbers")
    return labels.long(), {}


def find_extras(path: Path | str, entries: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Returns those of `EXTRAS` among the entries of a file: floats, and the factor in its own type.

    Args:
        path: The file or dataset, for messages.
        entries: Its entries by name.

    Raises:
        DDBenchError: One is not a tensor or a number. The message is one line.
    """
    extras: dict[str, Tensor] = {}
    for name in EXTRAS:
        names = RATES if name == "learning_rate" else (name,)
        value = next((entries[entry] for entry in names if entry in entries), None)
        if isinstance(value, int | float):
            value = torch.tensor(value)
        if value is not None and not is_plain(value):
            raise DDBenchError(f"{path}: {name} is not a tensor of numbers")
        if value is not None:
            value = value.detach()
            if name == "decode_factor":
                extras[name] = value.flatten() if value.is_floating_point() else value.flatten().long()
            else:
                extras[name] = value.double().flatten() if name == "learning_rate" else value.float()
    return extras


def is_plain(value: Any) -> TypeGuard[Tensor]:
    """Tells whether a value is a tensor of real numbers in memory. Files may hold sparse, quantised or meta tensors."""
    if not isinstance(value, Tensor) or value.is_quantized or value.is_complex():
        return False
    return value.layout == torch.strided and value.device.type == "cpu"


def _widened(tensor: Tensor) -> Tensor:
    """Returns floats as float32 and other numbers than uint8 as int64: few operations exist for the other types."""
    if tensor.is_floating_point():
        return tensor.detach().float()
    return tensor.detach() if tensor.dtype == torch.uint8 else tensor.detach().long()


def check_weights(path: Path | str, weights: Any, count: int) -> None:
    """Refuses weights that are not one number of at least 0 per image, in one line."""
    if not (is_plain(weights) and weights.shape == (count,) and are_weights(weights)):
        raise DDBenchError(f"{path}: the weights are not one number >= 0 per image")
