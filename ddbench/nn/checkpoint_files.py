"""Reads the weights and the class names in a checkpoint file. The error describes what an invalid file contains."""

import json
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ddbench.core.errors import DDBenchError

SUFFIXES = (".pt", ".pth", ".pth.tar", ".ckpt", ".bin", ".safetensors")
NESTED = ("model", "state_dict", "net", "model_state_dict", "teacher", "model_ema", "state_dict_ema")
"""Names under which training scripts store a state dict. A moving average counts only if no other name is there."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What data-parallel, compiled and Lightning modules put before the name of every tensor."""
NETWORKS = ("torch.nn.", "torchvision.models.", "timm.models.")
"""Modules of the classes in a pickled network."""
SAVE_AGAIN = "save the weights alone: torch.save(network.state_dict(), PATH)"


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        path: The file.
        weights: The tensors of the state dict by name, without prefixes.
        classes: The class names of the outputs in their order, if the file names them.
    """

    path: Path
    weights: dict[str, Tensor]
    classes: tuple[str, ...] | None = None


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint file. No code in it is run: torch's weights-only loader reads it, or safetensors.

    Args:
        path: A file with one of `SUFFIXES`. It holds a state dict, alone or under one of the names in `NESTED`. Its
            class names are `classes` (a list) or `class_to_idx` (numbers by name): entries of the outermost dict, in a
            safetensors file JSON texts in the header.

    Returns:
        Weights and class names.

    Raises:
        DDBenchError: The file has no weights, several state dicts, or more than data. The message is one line.
    """
    if not path.is_file():
        raise DDBenchError(f"checkpoint '{path}' is not a file")
    if not path.name.lower().endswith(SUFFIXES):
        raise DDBenchError(f"checkpoint '{path}' has none of the suffixes {' '.join(SUFFIXES)}")
    try:
        if _is_safetensors(path):
            content, remarks = _read_safetensors(path)
        else:
            content = remarks = read_torch_file(path)
    except Exception as error:  # a damaged or malicious file may raise anything
        reason = reason_unreadable(path, error, SAVE_AGAIN)
        raise DDBenchError(f"checkpoint '{path}' cannot be read as weights: {reason}") from error
    return Checkpoint(path, _state_dict(path, content), class_names(remarks))


def class_names(remarks: object) -> tuple[str, ...] | None:
    """Returns the class names that `classes` or `class_to_idx` of a mapping hold; None if neither does.

    Values of another form are remarks of the author and are ignored.

    Example:
        >>> class_names({"class_to_idx": {"dog": 1, "cat": 0}})
        ('cat', 'dog')
    """
    if not isinstance(remarks, Mapping):
        return None
    for value in (remarks.get("classes"), remarks.get("class_to_idx")):
        if isinstance(value, Mapping):
            numbers = {number: name for name, number in value.items() if type(number) is int}
            value = [numbers.get(number) for number in range(len(value))]
        if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
            return tuple(value)
    return None


# -- formats ----------------------------------------------------------------------------------------------


def _is_safetensors(path: Path) -> bool:
    """Tells the formats apart by their content: a header of JSON begins after its length. Suffixes are often wrong."""
    with path.open("rb") as handle:
        return handle.read(9)[8:] == b"{"


def _read_safetensors(path: Path) -> tuple[Any, dict[str, Any]]:
    with safetensors.safe_open(str(path), framework="pt") as handle:
        header = handle.metadata() or {}
    remarks = {}
    for name in ("classes", "class_to_idx"):
        try:
            remarks[name] = json.loads(header.get(name, "null"))
        except (ValueError, RecursionError):
            continue
    return safetensors.torch.load_file(path), remarks


class _Ignored:
    """Takes the place of an object in a checkpoint that is no weight. Nothing of the object is kept."""

    def __new__(cls, *_: object) -> "_Ignored":
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        pass


_IGNORED = (
    "argparse.Namespace",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)
"""Types beside the weights in the files of common training scripts: their arguments and NumPy numbers."""


def read_torch_file(path: Path) -> Any:
    """Reads a file of torch.save with torch's weights-only loader, which runs no code of the file.

    Args:
        path: The file.

    Returns:
        Its tensors, numbers, texts and containers. Other objects of common training scripts are left empty.

    Raises:
        Exception: The file is damaged, or holds other objects. See `reason_unreadable`.
    """
    _check_archive(path)
    allowed = torch.serialization.safe_globals([(_Ignored, name) for name in _IGNORED])
    with warnings.catch_warnings(), allowed, path.open("rb") as handle:
        warnings.simplefilter("ignore")  # torch warns about files before it refuses them
        return torch.load(handle, map_location="cpu", weights_only=True)


def _check_archive(path: Path) -> None:
    """Refuses programs, and compressed archives, which may unpack to any size. torch stores weights uncompressed."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            parts = file.infolist()
        if any(part.filename.endswith("/constants.pkl") for part in parts):
            raise DDBenchError(f"it is a TorchScript program, not weights: {SAVE_AGAIN}")
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise DDBenchError("its parts are compressed, which torch does not do")


# -- faults -----------------------------------------------------------------------------------------------


def reason_unreadable(path: Path, error: Exception, advice: str) -> str:
    """Returns the reason why a file cannot be read. The messages of torch advise to turn weights_only off.

    Args:
        path: The file.
        error: What its reader raised.
        advice: How to save its tensors alone, for a file that holds more.
    """
    if isinstance(error, DDBenchError):
        return str(error)
    try:
        with path.open("rb") as handle:
            start = handle.read(512)
    except OSError as unreadable:
        return unreadable.strerror or str(unreadable)
    text = start.lstrip().lower()
    if not start:
        return "it is empty (0 bytes): copy or download it again"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself: run 'git lfs pull' where it was cloned"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "it is a web page (HTML) that a download returned instead of the file: download it again"
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        if any(name.startswith(NETWORKS) for name in [found[1], *_types_in(path)]):
            return f"it is a whole pickled network ({found[1]}), and nothing is unpickled: {advice}"
        return f"it holds more than tensors (a {found[1]}), and nothing else is unpickled: {advice}"
    if start.startswith((b"PK\x03\x04", b"\x80")) or start[8:9] == b"{":
        return "it is damaged, cut short, or holds more than tensors: copy or download it again"
    return "it is a file of neither torch.save nor safetensors"


def _types_in(path: Path) -> Iterable[str]:
    """Returns the names of the types in a file of torch.save that torch does not load by itself."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # an older format, or a damaged file
        return ()


def _state_dict(path: Path, content: object) -> dict[str, Tensor]:
    found = content
    for _ in NESTED:  # a malicious dict may contain itself
        if not isinstance(found, Mapping) or _is_state_dict(found):
            break
        nested = [name for name in NESTED if isinstance(found.get(name), Mapping)]
        nested = [name for name in nested if not name.endswith("_ema")] or nested[:1]
        if len(nested) > 1:
            names = " and ".join(f"'{name}'" for name in nested)
            raise DDBenchError(f"checkpoint '{path}' holds several state dicts, {names}: save one of them alone")
        if not nested:
            break
        found = found[nested[0]]
    if not (isinstance(found, Mapping) and found and _is_state_dict(found)):
        raise DDBenchError(f"checkpoint '{path}' holds no state dict of tensors; it {_described(found)}: {SAVE_AGAIN}")
    weights = dict(found)
    weights.pop("n_averaged", None)  # the counter of torch.optim.swa_utils.AveragedModel
    while weights and (prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in weights)), None)):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _is_state_dict(content: Mapping[Any, Any]) -> bool:
    return all(isinstance(name, str) and _is_weight(value) for name, value in content.items())


def _is_weight(value: object) -> bool:
    if not isinstance(value, Tensor):
        return False
    return (
        value.device.type == "cpu" and value.layout == torch.strided and not (value.is_quantized or value.is_complex())
    )


def _described(content: object) -> str:
    """Describes what was found instead of a state dict: the names and types of the entries that are not weights."""
    if not isinstance(content, Mapping):
        return f"is of the type {_type_name(content)}"
    odd = [f"'{str(name)[:60]}' ({_type_name(value)})" for name, value in content.items() if not _is_weight(value)][:8]
    left = f" and {len(content) - len(odd)} more" if len(content) > len(odd) else ""
    return f"holds {', '.join(odd)}{left}" if content else "is empty"


def _type_name(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} on {value.device}".removeprefix("torch.")
    return "object" if isinstance(value, _Ignored) else type(value).__name__
