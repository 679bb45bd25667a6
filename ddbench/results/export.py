"""Exports a distilled set as an image folder, a safetensors file, or a dataset of the Hugging Face hub."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ddbench.core.errors import DDBenchError, unknown
from ddbench.results.label_files import stored_labels
from ddbench.results.stored_sets import OpenDataset, StoredSet, required_set

if TYPE_CHECKING:
    from ddbench.evaluators.label_folders import LabelFile
    from ddbench.results.records import Record
    from ddbench.storage.cache import Cache

FORMATS = ("imagefolder", "safetensors", "huggingface")


def export_set(
    stored: StoredSet, card: Mapping[str, Any], target: Path, format: str, label_file: LabelFile | None = None
) -> None:
    """Writes a distilled set into a new folder, atomically.

    Args:
        stored: The set.
        card: How the set was made, as plain values.
        target: Folder to write: absent or empty.
        format: "imagefolder": one folder per class with one lossless PNG per image, `weights.csv`, and `README.md`
            with the card. Folders sort in class order, so a reader that numbers them alphabetically finds the same
            labels. "safetensors": `distilled.safetensors` with all tensors and the class names as metadata, and
            `card.json`. An image folder of floats, or with extras, holds `distilled.safetensors` too, because PNG files
            hold bytes only. "huggingface": see `write_hub_folder`; of floats, with `distilled.safetensors` too.
        label_file: Labels to write beside the set; None: none.

    Raises:
        DDBenchError: If the format is unknown, shapes or types do not match, or the folder is not empty or cannot be
            written. In this case no files remain.
    """
    from ddbench.core.files import atomic_write
    from ddbench.results.hub_export import write_hub_folder

    if format not in FORMATS:
        raise unknown("export format", format, FORMATS)
    _check(stored)
    if target.is_symlink() or target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise DDBenchError(f"{target} is not an empty folder: choose a new one, existing files are not overwritten")
    if not target.name:
        raise DDBenchError(f"{target} is the working directory, which cannot be replaced: choose a new folder")
    plain_card = json.loads(json.dumps(card, default=str))
    with atomic_write(target) as partial:
        partial.mkdir()
        is_float, decoder = stored.images.is_floating_point(), ""
        if "decode_factor" in stored.extras:
            factor = int(stored.extras["decode_factor"])
            decoder = (
                f"Each image holds {factor} x {factor} images of its class. Cut it into these parts and enlarge each\n"
                "to the size of the image (bilinear) before training.\n\n"
            )
        if format == "imagefolder":
            _write_imagefolder(partial, stored)
            beside = [*(["float32 pixels"] if is_float else []), *(name.replace("_", " ") for name in stored.extras)]
            text = (
                "Each folder is a class, in the order of the labels. `weights.csv` lists the label, the class and the\n"
                "weight in the loss of each file (the weights of a class sum to 1).\n\n"
            )
            readme = _readme(stored, plain_card, text + decoder, ", ".join(beside))
            (partial / "README.md").write_text(readme, encoding="utf-8")
        elif format == "huggingface":
            text = "The column `weight` is the weight of an image in the loss (the weights of a class sum to 1).\n\n"
            readme = _readme(stored, plain_card, text + decoder, "float32 pixels" if is_float else "")
            write_hub_folder(partial, stored, readme)
        else:
            text = json.dumps({"class_names": list(stored.class_names), **plain_card}, indent=2, ensure_ascii=False)
            (partial / "card.json").write_text(text + "\n", encoding="utf-8")
        if format == "safetensors" or is_float or (stored.extras and format == "imagefolder"):
            _write_tensors(partial, stored)
        if label_file is not None:
            label_file.write(partial)


def folder_names(class_names: Sequence[str]) -> list[str]:
    """Returns a folder name for each class: only letters, digits, `_`, `-` and inner dots.

    The class number is put in front, e.g. `003_dog`, if the names are not distinct on every file system or not in
    alphabetical order.

    Example:
        >>> folder_names(["cat", "guinea pig"]), folder_names(["dog", "cat"])
        (['cat', 'guinea_pig'], ['0_dog', '1_cat'])
    """
    names = [re.sub(r"[^\w.-]+", "_", name).strip(".")[:80] or "class" for name in class_names]
    distinct = len({name.casefold() for name in names}) == len(names)
    if distinct and names == sorted(names):
        return names
    digits = len(str(len(names) - 1))
    return [f"{number:0{digits}d}_{name}" for number, name in enumerate(names)]


def _check(stored: StoredSet) -> None:
    from ddbench.distillation.units import check_extras

    images, labels, weights, classes = stored.images, stored.labels, stored.weights, len(stored.class_names)
    if str(images.dtype) not in ("torch.uint8", "torch.float32") or images.ndim != 4 or images.shape[1] != 3:
        raise DDBenchError(
            f"cannot export images of {images.dtype} {list(images.shape)}: uint8 or float32 [m, 3, S, S] is needed"
        )
    if not len(images) == len(labels) == len(weights):
        raise DDBenchError(f"cannot export {len(images)} images with {len(labels)} labels and {len(weights)} weights")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DDBenchError(f"cannot export labels beyond the {classes} classes")
    check_extras(stored.extras, len(labels), classes, images.shape[-1], "cannot export a set with")


def _write_imagefolder(folder: Path, stored: StoredSet) -> None:
    from PIL import Image

    from ddbench.distillation.distilled_set import as_bytes

    folders = folder_names(stored.class_names)
    for name in folders:
        (folder / name).mkdir()
    written = [0] * len(folders)
    with (folder / "weights.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "label", "class", "weight"))
        parts = (as_bytes(stored.images).cpu(), stored.labels.tolist(), stored.weights.tolist())
        for image, label, weight in zip(*parts, strict=True):
            name = f"{folders[label]}/{written[label]:05d}.png"
            written[label] += 1
            Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(folder / name)
            rows.writerow((name, label, stored.class_names[label], repr(weight)))


def _write_tensors(folder: Path, stored: StoredSet) -> None:
    from safetensors.torch import save_file

    space = {"pixels": "unit"} if stored.images.is_floating_point() else {}
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in stored.tensors.items()},
        folder / "distilled.safetensors",
        metadata={"class_names": json.dumps(list(stored.class_names), ensure_ascii=False), **space},
    )


def _readme(stored: StoredSet, card: dict[str, Any], files: str, beside: str) -> str:
    """Returns the text of the card, with a paragraph on the files and what only `distilled.safetensors` holds."""
    count, classes, side = len(stored.images), len(stored.class_names), stored.images.shape[-1]
    exact = (
        f"`distilled.safetensors` holds the exact set: {beside}. The PNG files are rounded to bytes.\n\n"
        if beside
        else ""
    )
    made = yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=100)
    # The block is indented, not fenced, because text in the card could contain the end of a fence.
    made = "".join(f"    {line}\n" for line in made.splitlines())
    return (
        "# A distilled set\n\n"
        f"{count} images of {classes} classes, {side} x {side} pixels, exported by ddbench.\n"
        "They replace the whole training set: train a network from scratch on them.\n\n"
        f"{files}{exact}## How they were made\n\n{made}"
    )


def export_run(
    record: Record, cache: Cache, open_dataset: OpenDataset, target: Path, format: str, with_labels: bool = False
) -> Path:
    """Exports the distilled set of a record from the cache.

    Args:
        record: The record. It becomes the card of the exported set.
        cache: The cache.
        open_dataset: Opens a dataset by name and configuration.
        target: Folder to write: absent or empty.
        format: See `export_set`.
        with_labels: Whether the stored labels of the record's student are exported too.

    Returns:
        `target`.

    Raises:
        DDBenchError: As in `required_set`, `stored_labels` and `export_set`.
    """
    stored = required_set(record, cache, open_dataset)
    labels = stored_labels(record, cache) if with_labels else None
    export_set(stored, record.model_dump(mode="json"), target, format, labels)
    return target
