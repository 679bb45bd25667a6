"""Networks: built by name and seed, loaded from checkpoints, and tapped for features and BatchNorm inputs."""

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
    """Puts the weights of `path` into `network`, in place; all or nothing.

    path: .safetensors, or .pt/.pth read by torch's weights-only loader, holding a plain state dict, one under
    "model" or "state_dict", or one of a data-parallel module ("module." before every name).
    Raises DDBenchError with one line for a file that cannot be read as weights, another number of classes
    than `class_count`, missing, unexpected, misshapen or non-finite tensors.
    """
    weights = _read_weights(path)
    expected = network.state_dict()
    head = final_classifier(network)[0] + ".weight"
    if head in weights and weights[head].ndim == 2 and len(weights[head]) != class_count:
        raise DDBenchError(f"checkpoint '{path}' has {len(weights[head])} classes, the dataset {class_count}")
    # Files older than this counter do not have it, and evaluation never reads it.
    missing = [name for name in expected.keys() - weights if not name.endswith("num_batches_tracked")]
    reshaped = [name for name in expected.keys() & weights if expected[name].shape != weights[name].shape]
    faults = {
        "is missing": missing,
        "has unexpected": list(weights.keys() - expected),
        "has another shape of": reshaped,
    }
    if not any(faults.values()):  # only then is each of a size that can be looked through
        faults["has NaN or infinity in"] = [n for n, tensor in weights.items() if not tensor.isfinite().all()]
    if any(faults.values()):
        said = "; ".join(f"{what} {_some(names)}" for what, names in faults.items() if names)
        raise DDBenchError(f"checkpoint '{path}' does not fit this {type(network).__name__}: it {said}")
    network.load_state_dict(weights, strict=False)


def _is_plain(value: Tensor) -> bool:
    odd = value.is_quantized or value.is_complex()
    return value.device.type == "cpu" and value.layout == torch.strided and not odd


def check_class_order(path: Path, class_names: tuple[str, ...]) -> None:
    """Compares the class names in a safetensors file's metadata (`classes`, a JSON list), where it has them.

    Anything else under that name is a remark for people and is not read. Raises DDBenchError where the names
    are not the dataset's, in its order.
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


def _some(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _refuse_compressed(path: Path) -> None:
    """torch stores weights as they are: what is compressed was made by others, and may unpack to any size."""
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
                warnings.simplefilter("ignore")  # of torch's, on what it then refuses
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file raises, the person needs one line
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        if type(error).__name__ == "UnpicklingError":  # torch's text advises to switch the protection off
            reason = "it is damaged or holds more than tensors, and nothing else is ever loaded"
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
