"""Reads distilled sets from files: a folder of images, safetensors, npz, or a file of torch.save."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ddbench.config.given_sets import SPACES, SUFFIXES
from ddbench.core.errors import DDBenchError
from ddbench.core.files import refuse_url
from ddbench.core.text import counted
from ddbench.data.decode import CorruptImage, Resize, decode, read_header, to_stored
from ddbench.data.listing import Listing
from ddbench.distillation.distilled_set import as_bytes
from ddbench.distillation.set_tensors import (
    check_weights,
    find_extras,
    find_images,
    read_content,
    split_labels,
    to_pixels,
)
from ddbench.distillation.units import check_extras, soft_labels_in


@dataclass(frozen=True)
class SetFile:
    """A distilled set as its files hold it, before its classes are matched with those of a dataset.

    Attributes:
        images: uint8, or float32 with 0 for black and 1 for white, [m, 3, S, S], in the order of the set.
        labels: Numbers of classes in `names`, int64 [m].
        names: The names of the set's classes. If the file has no names, these are the class numbers.
        weights: Float [m]; None: equal weights.
        digest: SHA-256 of the file. If there are several files, SHA-256 of the lines `SHA-256  PATH` in order.
        files: The number of files.
        notes: What was converted or left out, in sentences for the user.
        extras: Soft labels (their columns in the order of `names`), learning rate and decoder; see `EXTRAS`.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    weights: Tensor | None
    digest: str
    files: int
    notes: tuple[str, ...] = ()
    extras: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Form:
    """The form in which a set is read.

    Attributes:
        size: Height and width of the images in pixels; None: the short side of the first image.
        resize: The filter that resizes images of another size.
        pixels: The space of float images; None: the set holds bytes.
    """

    size: int | None
    resize: Resize = "bilinear"
    pixels: str | None = None


def read_set(path: Path, form: Form) -> SetFile:
    """Reads a distilled set. Nothing in its files is unpickled.

    Args:
        path: A folder of class folders with images; a file with one of `SUFFIXES`; a folder with the file
            `distilled.safetensors` of `ddbench export`; a folder with the files `images_*.pt` and `labels_*.pt` of
            MTT; or one file `images_*.pt` of such a folder.
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
    if re.fullmatch(r"images_\w+\.pt", path.name) and _labels_beside(path).is_file():
        return _read_parts(path.parent, [path], form)
    if path.suffix.lower() not in SUFFIXES:
        raise DDBenchError(f"{path} is no distilled set: a folder of class folders or {' '.join(SUFFIXES)} is needed")
    return _from_content(path, read_content(path), form, (path,))


def fit(images: Iterable[Image.Image], count: int, form: Form) -> tuple[Tensor, tuple[str, ...]]:
    """Resizes images to the size of a form.

    Args:
        images: RGB images.
        count: Their number.
        form: The size, and the filter.

    Returns:
        uint8 [m, 3, S, S], and a note if an image had another size.
    """
    rest = iter(images)
    first = next(rest)
    size = form.size or min(first.size)
    fitted = torch.empty(count, 3, size, size, dtype=torch.uint8)
    others: dict[str, None] = {}
    for row, image in zip(fitted, chain((first,), rest), strict=True):
        if image.size != (size, size):
            others[f"{image.width} x {image.height}"] = None
        stored = torch.from_numpy(to_stored(image, size, form.resize).copy())
        top, left = ((side - size) // 2 for side in stored.shape[1:])
        row.copy_(stored[:, top : top + size, left : left + size])
    shown = ", ".join([*others][:3]) + (", ..." if len(others) > 3 else "")
    return fitted, ((f"images of {shown} pixels are resized to {size} x {size} ({form.resize})",) if others else ())


def fit_tensor(images: Tensor, form: Form, extras: Mapping[str, Tensor]) -> tuple[Tensor, tuple[str, ...]]:
    """Resizes stored images to the size of a form. Floats of another size become bytes.

    Args:
        images: uint8 or float32 [m, 3, H, W].
        form: The size, and the filter.
        extras: Those of `EXTRAS` that the set has.

    Returns:
        uint8 or float32 [m, 3, S, S], and notes on what was changed.

    Raises:
        DDBenchError: As in `refuse_resized_parts`.
    """
    size = form.size or min(images.shape[2:])
    if images.shape[2:] == (size, size):
        return images, ()
    refuse_resized_parts(extras, size)
    rounded = ("the floats are rounded to bytes and clamped, because the images are resized",)
    arrays = as_bytes(images).permute(0, 2, 3, 1).contiguous().numpy()
    fitted, notes = fit(map(Image.fromarray, arrays), len(arrays), form)
    return fitted, (rounded if images.is_floating_point() else ()) + notes


def refuse_resized_parts(extras: Mapping[str, Tensor], size: int) -> None:
    """Raises DDBenchError if the images of a set are several images each, which would mix if they were resized.

    Args:
        extras: Those of `EXTRAS` that the set has.
        size: The size in pixels that is needed.
    """
    if "decode_factor" in extras:
        factor = int(extras["decode_factor"])
        raise DDBenchError(
            f"the set holds {factor} x {factor} images in each image, so it cannot be resized to {size} px: set "
            "--image-size to its own size"
        )


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
    deep: list[str] = []

    def decoded() -> Iterator[Image.Image]:
        for file, _ in files:
            try:
                data = (path / file).read_bytes()
                deep.extend([file] if read_header(data).is_deep else [])
                yield decode(data)
            except CorruptImage as error:
                raise DDBenchError(f"{path / file} cannot be read: {error}") from error
            except OSError as error:
                raise DDBenchError(f"{path / file} cannot be read: {error.strerror}") from error
            lines.append(f"{hashlib.sha256(data).hexdigest()}  {file}\n")

    images, notes = fit(decoded(), len(files), form)
    if deep:
        notes += (f"{counted(len(deep), 'image')} above 8 bits per channel: the range is scaled to 0 to 255",)
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
    check_weights(path, weights, len(files))
    return files, [names[label] for label in sorted(names)], weights


def _labels_beside(images: Path) -> Path:
    """Returns the file of the labels of MTT's `images_N.pt`, or of `images_zca_N.pt`: its images before whitening."""
    return images.with_name(re.sub(r"^images_(zca_)?", "labels_", images.name))


def _read_parts(path: Path, images: Sequence[Path], form: Form) -> SetFile:
    """Reads the files of MTT and DATM: images, labels, and optionally the student's learning rate."""
    plain = sorted(path.glob("images_zca_*.pt"))
    best = [file for file in images if file in plain]
    best = best or [file for file in images if file.stem == "images_best"] or list(images)
    if len(best) > 1:
        raise DDBenchError(f"{path} holds several sets: give one of the files {best[0].name}, {best[1].name}, ...")
    if plain and best[0] not in plain:
        raise DDBenchError(f"{best[0]} is whitened: give one of the images before whitening, e.g. {plain[0].name}")
    labels = _labels_beside(best[0])
    if not labels.is_file():
        raise DDBenchError(f"{path} holds {best[0].name} but not {labels.name}")
    files, content = [best[0], labels], {"images": read_content(best[0]), "labels": read_content(labels)}
    if plain:
        if form.pixels not in (None, "unit"):
            raise DDBenchError(f"--pixels {form.pixels}: the space of {best[0]} is unit (0 is black and 1 is white)")
        content["pixels"], form = "unit", replace(form, pixels=None)
    rates = [file for stem in (labels.stem.replace("labels", "lr", 1), "lr") if (file := path / f"{stem}.pt").is_file()]
    if rates:
        files.append(rates[0])
        content["lr"] = read_content(rates[0])
    return _from_content(path, content, form, files)


def _from_content(path: Path, content: Any, form: Form, files: Sequence[Path]) -> SetFile:
    tensor, labels, notes = find_images(path, content)
    entries = content if isinstance(content, Mapping) else {}
    declared = entries.get("pixels")
    is_declared = form.pixels is None and declared in SPACES
    images, remark = to_pixels(path, tensor, declared if is_declared else form.pixels, is_declared)
    labels, soft_labels = split_labels(path, labels, len(images))
    extras = {**find_extras(path, entries), **soft_labels}
    weights, names = entries.get("weights"), entries.get("class_names")
    if weights is not None:
        check_weights(path, weights, len(images))
    kind, noun = soft_labels_in(extras), "class names"
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        if kind is None:
            numbers, labels = torch.unique(labels, return_inverse=True)
        else:  # its columns are the classes
            numbers, noun = torch.arange(extras[kind].shape[1]), "columns of soft labels"
        names = [str(number) for number in numbers.tolist()]
    check_extras(extras, len(images), len(names), images.shape[-1], f"{path} has")
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
        ends = f"from {int(labels.min())} to {int(labels.max())}"
        raise DDBenchError(f"{path}: the labels are {ends}, and there are {len(names)} {noun}")
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    lines = "".join(f"{digest}  {file.name}\n" for digest, file in zip(digests, files, strict=True))
    digest = digests[0] if len(files) == 1 else hashlib.sha256(lines.encode()).hexdigest()
    fitted, remarks = fit_tensor(images, form, extras)
    notes += (*([remark] if remark else []), *remarks)
    return SetFile(fitted, labels, tuple(names), weights, digest, len(files), notes, extras)
