"""Reads the weights and the class names in a checkpoint file. The error describes what an invalid file contains."""

import json
import re
import struct
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
from ddbench.core.files import refuse_url

SUFFIXES = (".pt", ".pth", ".pth.tar", ".ckpt", ".bin", ".safetensors")
NESTED = ("model", "state_dict", "net", "model_state_dict", "teacher", "model_ema", "state_dict_ema")
"""Names under which training scripts store a state dict. A moving average counts only if no other name is there."""
DEPTH = 4
"""The largest number of dicts around a state dict."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What data-parallel, compiled and Lightning modules put before the names of a network's tensors."""
NETWORKS = ("torch.nn.", "torchvision.models.", "timm.models.")
"""Modules of the classes in a pickled network."""
_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19"
"""In the first bytes of torch's old format, which are a pickle of this number."""
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
        path: A file with one of `SUFFIXES`. It holds a state dict, alone or under one of the names in `NESTED`. It can
            name its classes as `classes` (a list) or `class_to_idx` (numbers by name). These are entries of the
            outermost dict, or JSON texts in the header of a safetensors file.

    Returns:
        Weights and class names.

    Raises:
        DDBenchError: The file has no weights, has several state dicts, or holds objects other than data. The message is
            one line.
    """
    check_path(path)
    try:
        if _is_safetensors(path):
            content, remarks = _read_safetensors(path)
        else:
            content = remarks = read_torch_file(path)
    except Exception as error:  # a damaged or malicious file may raise anything
        reason = reason_unreadable(path, error, SAVE_AGAIN)
        raise DDBenchError(f"checkpoint '{path}' cannot be read as weights: {reason}") from error
    return Checkpoint(path, _state_dict(path, content), class_names(remarks))


def check_path(path: Path) -> None:
    """Checks that a path names a file with one of `SUFFIXES`, before the file is opened.

    Raises:
        DDBenchError: The path names no such file. The message is one line.
    """
    refuse_url(path, "checkpoint")
    reason = None
    if path.is_dir():
        reason = "is a folder: give the file of the weights in it"
    elif path.is_symlink() and not path.exists():
        reason = "is a link that leads to no file"
    elif not path.exists():
        reason = "does not exist"
    elif not path.is_file():
        reason = "is not a file"
    elif not path.name.lower().endswith(SUFFIXES):
        reason = f"has none of the suffixes {' '.join(SUFFIXES)}"
    if reason:
        raise DDBenchError(f"checkpoint '{path}' {reason}")


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


class _NumpyType(_Ignored):
    """Takes the place of `numpy.dtype`. Keeps its code, e.g. `i8`."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code


def _numpy_number(kind: object, data: object = None) -> object:
    """Takes the place of the constructor of NumPy numbers. Returns a Python number, or nothing for other types."""
    layout = {"i8": "<q", "i4": "<i", "f8": "<d", "f4": "<f", "b1": "?"}.get(str(getattr(kind, "code", None)))
    if layout is None or not isinstance(data, bytes) or len(data) != struct.calcsize(layout):
        return _Ignored()
    return struct.unpack(layout, data)[0]


_ALLOWED = (
    (_Ignored, "argparse.Namespace"),
    (_NumpyType, "numpy.dtype"),
    (_numpy_number, "numpy.core.multiarray.scalar"),
    (_numpy_number, "numpy._core.multiarray.scalar"),
)
"""What stands for the types beside the weights in the files of common training scripts: arguments, NumPy numbers."""


def read_torch_file(path: Path) -> Any:
    """Reads a file of torch.save with torch's weights-only loader, which runs no code of the file.

    Args:
        path: The file.

    Returns:
        Its tensors, numbers, texts and containers. NumPy numbers become Python numbers; other objects of common
        training scripts are left empty.

    Raises:
        Exception: The file is damaged, or holds other objects. See `reason_unreadable`.
    """
    _check_archive(path)
    allowed = torch.serialization.safe_globals([*_ALLOWED])
    with warnings.catch_warnings(), allowed, path.open("rb") as handle:
        warnings.simplefilter("ignore")  # torch warns about files before it refuses them
        return torch.load(handle, map_location="cpu", weights_only=True)


def _check_archive(path: Path) -> None:
    """Refuses other archives, and compressed ones, which may unpack to any size. torch stores weights uncompressed."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as file:
        parts = file.infolist()
    names = [part.filename for part in parts]
    if any(name.endswith("/constants.pkl") for name in names):
        raise DDBenchError(f"it is a TorchScript program, not weights: {SAVE_AGAIN}")
    if any(name.endswith("/archive_format") for name in names):
        raise DDBenchError(f"it is a program of torch.export, not weights: {SAVE_AGAIN}")
    if names and all(name.endswith(".npy") for name in names):
        raise DDBenchError(f"it is a file of NumPy arrays (.npz): {SAVE_AGAIN}")
    if not any(name.endswith("data.pkl") for name in names):
        raise DDBenchError("it is a zip archive that torch.save did not write: unpack it")
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise DDBenchError("its parts are compressed, which torch does not do")


# -- faults -----------------------------------------------------------------------------------------------


_OTHER_FILES = (
    (rb"$", "it is empty (0 bytes): copy or download it again"),
    (
        rb"version https://git-lfs",
        "it is a Git LFS pointer, not the file itself: run 'git lfs pull' where it was cloned",
    ),
    (
        rb"(\xef\xbb\xbf)?\s*<(!doctype|!--|html|head|\?xml)",
        "it is a web page (HTML) that a download returned instead of the file: download it again",
    ),
    (rb"\s*\{\s*\"", "it is JSON (an index of files, or the answer of a server): give the file of the weights"),
    (rb"GGUF", "it is a GGUF file, which holds a language model"),
    (rb"\x93NUMPY", "it is a NumPy array (.npy): {advice}"),
    (rb"\x89HDF", "it is an HDF5 file, as Keras writes: {advice}"),
    (rb"\x08[\x01-\x20][\x12\x1a\x22\x28\x3a\x42]", "it is an ONNX model: {advice}"),
    (rb".{257}ustar", "it is a tar archive: unpack it"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|\x28\xb5\x2f\xfd|Rar!", "it is a compressed file: unpack it"),
    (rb"\x80(?!.{0,24}" + re.escape(_MAGIC) + rb")", "it was written by pickle.dump, not by torch.save: {advice}"),
)
"""The beginnings of common files without weights, and the sentence about each."""


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
    for pattern, sentence in _OTHER_FILES:
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            return sentence.format(advice=advice)
    if match := re.search(r"GLOBAL (\S+)", str(error)):
        if any(name.startswith(NETWORKS) for name in [match[1], *_types_in(path)]):
            return f"it is a whole pickled network ({match[1]}), and nothing is unpickled: {advice}"
        return f"it holds more than tensors (a {match[1]}), and nothing else is unpickled: {advice}"
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
    """Finds the one state dict in the content of a file."""
    content = _with_text_names(content)
    for _ in range(DEPTH):  # a malicious dict may contain itself
        if not isinstance(content, Mapping) or _is_state_dict(content):
            break
        nested = _networks(path, "state dicts", [name for name in NESTED if _holds_tensors(content.get(name))])
        if not nested:
            break
        content = _with_text_names(content[nested])
    if not (isinstance(content, Mapping) and content and _is_state_dict(content)):
        raise DDBenchError(
            f"checkpoint '{path}' holds no state dict of tensors; it {_described(content)}: {SAVE_AGAIN}"
        )
    weights = dict(content)
    while prefix := next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in weights)), None):
        # Beside the network are the numbers of its wrapper, such as the class weights of a loss.
        others = {
            name.partition(".")[0] for name, value in weights.items() if value.ndim > 1 or name.startswith(prefix)
        }
        _networks(path, "modules", sorted(others))
        weights = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    return weights


def _networks(path: Path, kind: str, names: list[str]) -> str | None:
    """Returns the one name of a network. A moving average counts only if no other name is there.

    Raises:
        DDBenchError: There are several.
    """
    names = [name for name in names if "ema" not in name.split("_")] or names[:1]
    if len(names) > 1:
        listed = "{} and {}".format(", ".join(map(repr, names[:-1])), repr(names[-1]))
        raise DDBenchError(f"checkpoint '{path}' holds several {kind}, {listed}: save one of them alone")
    return names[0] if names else None


def _with_text_names(content: object) -> object:
    """Returns a dict whose names that are bytes, as those of Python 2, are texts."""
    if not isinstance(content, Mapping):
        return content
    return {
        name.decode(errors="replace") if isinstance(name, bytes) else name: value for name, value in content.items()
    }


def _holds_tensors(content: object, depth: int = DEPTH) -> bool:
    """Tests whether a dict holds tensors, itself or under the names in `NESTED`."""
    if not isinstance(content, Mapping) or depth == 0:
        return False
    if any(isinstance(value, Tensor) for value in content.values()):
        return True
    return any(_holds_tensors(value, depth - 1) for name, value in content.items() if name in NESTED)


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
    if kinds := {_type_name(name) for name in content if not isinstance(name, str)}:
        return f"has names of the type {', '.join(sorted(kinds))}"
    odd = [f"'{str(name)[:60]}' ({_type_name(value)})" for name, value in content.items() if not _is_weight(value)][:8]
    left = f" and {len(content) - len(odd)} more" if len(content) > len(odd) else ""
    return f"holds {', '.join(odd)}{left}" if content else "is empty"


def _type_name(value: object) -> str:
    if isinstance(value, Tensor):
        kind = "" if value.layout == torch.strided else f", {value.layout}"
        return f"{value.dtype} on {value.device}{kind}".replace("torch.", "")
    if isinstance(value, Mapping) and not value:
        return "empty dict"
    return "object" if isinstance(value, _Ignored) else type(value).__name__
