"""Loads the weights of a network from a checkpoint file, and refuses files that do not fit or are not safe."""

import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ddbench.core.errors import DDBenchError
from ddbench.nn.layers import final_classifier


def load_checkpoint(network: nn.Module, path: Path, class_count: int) -> None:
    """Loads the weights of a checkpoint into a network, in place. Loads all of them or none.

    Args:
        network: The network to fill.
        path: A .safetensors file, or a .pt/.pth file for torch's weights-only loader. It holds a state dict, plain or
            under "model" or "state_dict", or that of a data-parallel module ("module." before every name).
        class_count: Number of classes of the dataset.

    Raises:
        DDBenchError: The file cannot be read as weights, its number of classes is not `class_count`, or its tensors are
            missing, unexpected, misshapen or not finite. The message is one line.
    """
    weights = _read_weights(path)
    expected = network.state_dict()
    head = final_classifier(network)[0] + ".weight"
    if head in weights and weights[head].ndim == 2 and len(weights[head]) != class_count:
        raise DDBenchError(f"checkpoint '{path}' has {len(weights[head])} classes, the dataset {class_count}")
    # Old files lack this counter, and evaluation mode does not read it.
    missing = [name for name in expected.keys() - weights if not name.endswith("num_batches_tracked")]
    reshaped = [name for name in expected.keys() & weights if expected[name].shape != weights[name].shape]
    faults = {
        "is missing": missing,
        "has unexpected": list(weights.keys() - expected),
        "has another shape of": reshaped,
    }
    if not any(faults.values()):  # without this check a tensor could have any size
        faults["has NaN or infinity in"] = [n for n, tensor in weights.items() if not tensor.isfinite().all()]
    if any(faults.values()):
        text = "; ".join(f"{fault} {_first_names(names)}" for fault, names in faults.items() if names)
        raise DDBenchError(f"checkpoint '{path}' does not fit this {type(network).__name__}: it {text}")
    network.load_state_dict(weights, strict=False)


def _is_plain(value: Tensor) -> bool:
    unusual = value.is_quantized or value.is_complex()
    return value.device.type == "cpu" and value.layout == torch.strided and not unusual


def check_class_order(path: Path, class_names: tuple[str, ...]) -> None:
    """Checks the class names in a checkpoint's metadata, if it has any.

    They are a JSON list under `classes` in a safetensors file. Any other value under that name is ignored.

    Args:
        path: The checkpoint file.
        class_names: Class names of the dataset, in its order.

    Raises:
        DDBenchError: The names differ from those of the dataset, or their order does.
    """
    if path.suffix != ".safetensors":
        return
    with safetensors.safe_open(str(path), framework="pt") as handle:
        text = (handle.metadata() or {}).get("classes", "")
    try:
        classes = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(classes, list) and classes != list(class_names):
        raise DDBenchError(f"teacher.checkpoint {path}: its classes are not the dataset's, in the dataset's order")


def _first_names(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _refuse_compressed(path: Path) -> None:
    """Refuses compressed archives, which may unpack to any size. torch stores weights uncompressed."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if any(part.compress_type != zipfile.ZIP_STORED for part in file.infolist()):
                raise ValueError("its parts are compressed, which torch does not do")


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DDBenchError(f"checkpoint '{path}' is not a file")
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise DDBenchError(f"checkpoint '{path}' is neither .safetensors nor .pt/.pth")
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            _refuse_compressed(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns about files before it refuses them
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file may raise anything
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        # torch's own message advises to turn weights_only off, so it is not shown.
        if type(error).__name__ == "UnpicklingError":
            reason = "it is damaged or holds more than tensors, and only tensors are loaded"
        raise DDBenchError(f"checkpoint '{path}' cannot be read as weights: {reason}") from error
    for wrapper in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) and _is_plain(value) for name, value in content.items()
    ):
        raise DDBenchError(f"checkpoint '{path}' holds no state dict of tensors")
    prefix = "module." if content and all(name.startswith("module.") for name in content) else ""
    return {name.removeprefix(prefix): value for name, value in content.items()}
