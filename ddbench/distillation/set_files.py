"""Reads distilled sets from files: a folder of images, safetensors, npz, or a file of torch.save."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from ddbench.config.given_sets import SPACES, SUFFIXES
from ddbench.core.errors import DDBenchError
from ddbench.core.files import refuse_url
from ddbench.core.text import counted
from ddbench.data.decode import CorruptImage, Resize, decode, to_stored
from ddbench.data.listing import Listing
from ddbench.distillation.distilled_set import to_uint8
from ddbench.nn.checkpoint_files import read_torch_file, reason_unreadable

IMAGES = ("images", "data", "x")
LABELS = ("labels", "targets", "y")
LARGEST_NORMALISED = 20.0
"""Larger values are not those of normalised images, even of images that were optimised without bounds."""


@dataclass(frozen=True)
class SetFile:
    """A distilled set as its files hold it, before its classes are matched with those of a dataset.

    Attributes:
        images: uint8 [m, 3, S, S], in the order of the set.
        labels: Numbers of classes in `names`, int64 [m].
        names: The names of the set's classes. If the file has no names, these are the class numbers.
        weights: Float [m]; None: equal weights.
        digest: SHA-256 of the file. If there are several files, SHA-256 of the lines `SHA-256  PATH` in order.
        files: The number of files.
        notes: What was converted or left out, in sentences for the user.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    weights: Tensor | None
    digest: str
    files: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Form:
    """The form in which a set is read.

    Attributes:
        size: Height and width of the images in pixels.
        resize: The filter that resizes images of another size.
        pixels: The space of float images; None: the set holds bytes.
    """

    size: int
    resize: Resize = "bilinear"
    pixels: str | None = None


def read_set(path: Path, form: Form) -> SetFile:
    """Reads a distilled set. Nothing in its files is unpickled.

    Args:
        path: A folder of class folders with images; a file with one of `SUFFIXES`; a folder with the file
            `distilled.safetensors` of `ddbench export`; or a folder with the files `images_*.pt` and `labels_*.pt` of
            MTT.
        form: Size and space of the images. An image of another size is resized by its short side, and its centre is
            used.

    Returns:
        The set.

    Raises:
        DDBenchError: The files are no distilled set, or contradict `form.pixels`. The message is one line.
    """
    if path.is_dir():
        exported = path / "distilled.safetensors"
        if exported.is_file():
            return read_set(exported, form)
        parts = sorted(path.glob("images_*.pt"))
        return _read_parts(path, parts, form) if parts else _read_folder(path, form)
    if not path.is_file():
        refuse_url(path, "the set")
        raise DDBenchError(f"{path} is neither a file nor a folder")
    if path.suffix.lower() not in SUFFIXES:
        raise DDBenchError(f"{path} is no distilled set: a folder of class folders or {' '.join(SUFFIXES)} is needed")
    return _from_content(path, _content(path), form, (path,))


def fit(images: Iterable[Image.Image], count: int, form: Form) -> tuple[Tensor, tuple[str, ...]]:
    """Resizes images to the size of a form.

    Args:
        images: RGB images.
        count: Their number.
        form: The size, and the filter.

    Returns:
        uint8 [m, 3, S, S], and a note if an image had another size.
    """
    size = form.size
    fitted = torch.empty(count, 3, size, size, dtype=torch.uint8)
    others: dict[str, None] = {}
    for row, image in zip(fitted, images, strict=True):
        if image.size != (size, size):
            others[f"{image.width} x {image.height}"] = None
        stored = torch.from_numpy(to_stored(image, size, form.resize).copy())
        top, left = ((side - size) // 2 for side in stored.shape[1:])
        row.copy_(stored[:, top : top + size, left : left + size])
    shown = ", ".join([*others][:3]) + (", ..." if len(others) > 3 else "")
    return fitted, ((f"images of {shown} pixels are resized to {size} x {size} ({form.resize})",) if others else ())


# -- folders ----------------------------------------------------------------------------------------------


def _read_folder(path: Path, form: Form) -> SetFile:
    if form.pixels not in (None, "unit"):
        raise DDBenchError(f"--pixels {form.pixels}: {path} holds image files, whose pixels are bytes")
    listing = Listing(path)
    names = listing.classes("")
    files = [(file, label) for label, name in enumerate(names) for file in sorted(listing.images(name))]
    weights = None
    if (path / "weights.csv").is_file():
        files, names, weights = _read_weights(path / "weights.csv", dict(files))
    else:
        for file, label in files:
            _check_class_number(path, file, names[label])
    lines: list[str] = []

    def decoded() -> Iterator[Image.Image]:
        for file, _ in files:
            try:
                data = (path / file).read_bytes()
                yield decode(data)
            except CorruptImage as error:
                raise DDBenchError(f"{path / file} cannot be read: {error}") from error
            except OSError as error:
                raise DDBenchError(f"{path / file} cannot be read: {error.strerror}") from error
            lines.append(f"{hashlib.sha256(data).hexdigest()}  {file}\n")

    images, notes = fit(decoded(), len(files), form)
    ignored = listing.note()
    if ignored and weights is None:
        notes += (ignored,)
    labels = torch.tensor([label for _, label in files])
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return SetFile(images, labels, tuple(names), weights, digest, len(files), notes)


def _check_class_number(path: Path, file: str, folder: str) -> None:
    """Refuses `new003/class004_id000.jpg`: the names of SRe2L and RDED contain the number of the class twice."""
    inside = re.match(r"class(\d{1,6})_", Path(file).name)
    outside = re.fullmatch(r"(?:new)?(\d{1,6})", folder)
    if inside and outside and int(inside[1]) != int(outside[1]):
        raise DDBenchError(f"{path / file}: the folder names class {int(outside[1])}, and the file {int(inside[1])}")


def _read_weights(path: Path, known: Mapping[str, int]) -> tuple[list[tuple[str, int]], list[str], Tensor]:
    """Reads the file that `ddbench export` writes beside the class folders: order, labels, class names, weights."""
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        files = [(row["file"], int(row["label"])) for row in rows]
        names = {int(row["label"]): row["class"] for row in rows}
        weights = torch.tensor([float(row["weight"]) for row in rows])
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DDBenchError(f"{path} is not the file that ddbench export writes: remove it, or export again") from error
    differing = sorted({file for file, _ in files} ^ known.keys())
    if differing or len(files) != len(known):
        odd = differing[0] if differing else "an image twice"
        raise DDBenchError(f"{path} does not list the images of the folder, e.g. {odd}: remove it, or export again")
    if sorted(names) != list(range(len(names))):
        raise DDBenchError(f"{path}: no image has the label {next(n for n in range(len(names)) if n not in names)}")
    _check_weights(path, weights, len(files))
    return files, [names[label] for label in sorted(names)], weights


def _read_parts(path: Path, images: Sequence[Path], form: Form) -> SetFile:
    """Reads the files of MTT and DATM: images, labels, and a learning rate, which is left out."""
    best = [file for file in images if file.stem == "images_best"] or list(images)
    if len(best) > 1:
        raise DDBenchError(f"{path} holds several sets ({best[0].name}, {best[1].name}, ...): keep one of them")
    labels = best[0].with_name(best[0].name.replace("images", "labels", 1))
    if not labels.is_file():
        raise DDBenchError(f"{path} holds {best[0].name} but not {labels.name}")
    rates = sorted(file.name for file in path.glob("lr*.pt"))
    notes = (f"{path.name}: the learning rate in {rates[0]} is left out",) if rates else ()
    content = {"images": _content(best[0]), "labels": _content(labels)}
    return _from_content(path, content, form, (best[0], labels), notes)


# -- tensors ----------------------------------------------------------------------------------------------


def _content(path: Path) -> Any:
    """Reads the tensors of a file. Class names of a safetensors file are the entry `class_names`."""
    advice = "save its tensors alone: torch.save({'images': images, 'labels': labels}, PATH)"
    try:
        if path.suffix.lower() == ".safetensors":
            with safe_open(str(path), framework="pt") as handle:
                names = json.loads((handle.metadata() or {}).get("class_names", "null"))
                tensors = {name: handle.get_tensor(name) for name in list(handle.keys())}
                return {"class_names": names, **tensors}
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        return read_torch_file(path)
    except Exception as error:  # a damaged or malicious file may raise anything
        reason = reason_unreadable(path, error, advice)
        if path.suffix.lower() == ".npz" and "allow_pickle" in str(error):
            reason = "it holds Python objects, and nothing is unpickled: save arrays of numbers alone"
        raise DDBenchError(f"{path} cannot be read as a distilled set: {reason}") from error


def _from_content(path: Path, content: Any, form: Form, files: Sequence[Path], notes: tuple[str, ...] = ()) -> SetFile:
    images, labels, remarks = _find_tensors(path, content)
    notes += remarks
    if not bool(images.isfinite().all()):
        raise DDBenchError(f"{path}: the images are not finite (NaN or infinity)")
    levels, remarks = _to_bytes(path, _with_three_channels(path, images), form.pixels)
    notes += remarks
    labels, remarks = _hard_labels(path, labels, len(images))
    notes += remarks
    entries = content if isinstance(content, Mapping) else {}
    weights, names = entries.get("weights"), entries.get("class_names")
    if weights is not None:
        _check_weights(path, weights, len(images))
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        numbers, labels = torch.unique(labels, return_inverse=True)
        names = [str(number) for number in numbers.tolist()]
    elif not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
        ends = f"from {int(labels.min())} to {int(labels.max())}"
        raise DDBenchError(f"{path}: the labels are {ends}, and there are {len(names)} class names")
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    lines = "".join(f"{digest}  {file.name}\n" for digest, file in zip(digests, files, strict=True))
    digest = digests[0] if len(files) == 1 else hashlib.sha256(lines.encode()).hexdigest()
    arrays = levels.permute(0, 2, 3, 1).contiguous().numpy()
    fitted, remarks = fit(map(Image.fromarray, arrays), len(arrays), form)
    return SetFile(fitted, labels, tuple(names), weights, digest, len(files), (*notes, *remarks))


def _find_tensors(path: Path, content: Any) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Finds images and labels: entries of a dict, a list of the two, or a list of such lists under `data` (DC, DM)."""
    notes: tuple[str, ...] = ()
    if isinstance(content, Mapping) and isinstance(content.get("data"), list | tuple):
        content = content["data"]
        if content and all(isinstance(entry, list | tuple) for entry in content):
            if len(content) > 1:
                notes = (f"{path.name} holds {len(content)} sets: the first one is read",)
            content = content[0]
    if isinstance(content, list | tuple) and len(content) == 2:
        content = {"images": content[0], "labels": content[1]}
    if isinstance(content, Mapping):
        images = next((content[name] for name in IMAGES if name in content), None)
        labels = next((content[name] for name in LABELS if name in content), None)
        if _is_plain(images) and _is_plain(labels) and images.ndim == 4 and len(images):
            return _widened(images), _widened(labels), notes
    raise DDBenchError(
        f"{path} does not hold images [n, 3, H, W] and labels [n]: a dict with the entries "
        f"{' or '.join(IMAGES[:2])} and {LABELS[0]}, or a list of both tensors, is needed"
    )


def _is_plain(value: Any) -> TypeGuard[Tensor]:
    """Tells whether a value is a tensor of real numbers in memory. Files may hold sparse, quantised or meta tensors."""
    if not isinstance(value, Tensor) or value.is_quantized or value.is_complex():
        return False
    return value.layout == torch.strided and value.device.type == "cpu"


def _widened(tensor: Tensor) -> Tensor:
    """Returns floats as float32 and other numbers than uint8 as int64: few operations exist for the other types."""
    if tensor.is_floating_point():
        return tensor.detach().float()
    return tensor.detach() if tensor.dtype == torch.uint8 else tensor.detach().long()


def _with_three_channels(path: Path, images: Tensor) -> Tensor:
    if images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    if images.shape[1] not in (1, 3) or min(images.shape) == 0:
        raise DDBenchError(f"{path}: the images have the shape {list(images.shape)}; [n, 3, H, W] is needed")
    return images.expand(-1, 3, -1, -1)


def _to_bytes(path: Path, images: Tensor, pixels: str | None) -> tuple[Tensor, tuple[str, ...]]:
    """Converts images to uint8. Values of normalised images beyond black and white are clamped, with a note."""
    low, high = float(images.min()), float(images.max())
    ranges = f"{path}: the values of the images are from {low:.4g} to {high:.4g}"
    if images.dtype == torch.uint8:
        if pixels not in (None, "unit"):
            raise DDBenchError(f"--pixels {pixels}: the images of {path} are bytes, not normalised floats")
        return images, ()
    if not images.is_floating_point():
        raise DDBenchError(f"{path}: the images are integers of another type than uint8; uint8 or floats are needed")
    if pixels is None:
        raise DDBenchError(f"{ranges}: name their space with --pixels {'|'.join(SPACES)}")
    if pixels == "unit":
        if low < -1e-4 or high > 1 + 1e-4:
            raise DDBenchError(f"{ranges}, which contradicts --pixels unit (0 to 1)")
        return to_uint8(images, None), ()
    if low >= 0 or max(-low, high) > LARGEST_NORMALISED:
        likely = "unit" if low >= 0 and high <= 1 + 1e-4 else "another space"
        raise DDBenchError(f"{ranges}, which contradicts --pixels {pixels}: they look like {likely}")
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in SPACES[pixels])
    unit = images.float() * std + mean
    share = float(((unit < -0.5 / 255) | (unit > 1 + 0.5 / 255)).float().mean())
    beyond = f"{path.name}: {share:.1%} of the values are beyond black or white and are clamped"
    return to_uint8(unit.clamp(0, 1), None), (beyond,) if share else ()


def _hard_labels(path: Path, labels: Tensor, count: int) -> tuple[Tensor, tuple[str, ...]]:
    """Returns int64 labels [n]. Of soft labels [n, K] the largest one counts."""
    if len(labels) != count or labels.ndim not in (1, 2):
        raise DDBenchError(f"{path}: {counted(count, 'image')} with labels of the shape {list(labels.shape)}")
    if labels.ndim == 2 and labels.shape[1] > 1:
        if not bool(labels.isfinite().all()):
            raise DDBenchError(f"{path}: the labels are not finite (NaN or infinity)")
        return labels.argmax(1), (f"{path.name}: the labels are soft; the class with the largest one is used",)
    labels = labels.flatten()
    if bool((labels != labels.long()).any()):  # also NaN
        raise DDBenchError(f"{path}: the labels are not whole numbers")
    return labels.long(), ()


def _check_weights(path: Path, weights: Any, count: int) -> None:
    valid = _is_plain(weights) and weights.is_floating_point() and weights.shape == (count,)
    if not (valid and bool((weights.isfinite() & (weights >= 0)).all())):
        raise DDBenchError(f"{path}: the weights are not one number >= 0 per image")
