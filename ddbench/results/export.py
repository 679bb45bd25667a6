"""Exports a distilled set as an image folder, a safetensors file, or a dataset of the Hugging Face hub."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ddbench.core.errors import DDBenchError, unknown
from ddbench.results.label_files import stored_labels

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.config.schema import DataConfig
    from ddbench.data.dataset import Dataset
    from ddbench.evaluators.label_folders import LabelFile
    from ddbench.results.records import Record
    from ddbench.storage.cache import Cache

    OpenDataset = Callable[[str, DataConfig], Dataset]

FORMATS = ("imagefolder", "safetensors", "huggingface")


@dataclass(frozen=True)
class StoredSet:
    """A distilled set in the cache.

    Attributes:
        images: uint8, or float32 with 0 for black and 1 for white, [m, 3, S, S].
        labels: int64 [m].
        weights: Weights of the images in the loss, float32 [m].
        class_names: Names of the classes, by label.
        extras: Soft labels, learning rate and decoder; see `ddbench.distillation.units.EXTRAS`.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor
    class_names: list[str]
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def decoded(self) -> StoredSet:
        """Returns the images that students are trained on; see `ddbench.distillation.distilled_set.decode`."""
        from ddbench.distillation.distilled_set import decode

        tensors = {"images": self.images, "labels": self.labels, "weights": self.weights, **self.extras}
        return _of_parts(decode(tensors), self.class_names)


def export_set(
    images: Tensor,
    labels: Tensor,
    weights: Tensor,
    class_names: Sequence[str],
    card: Mapping[str, Any],
    target: Path,
    format: str,
    stored: LabelFile | None = None,
    extras: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes a distilled set into a new folder, atomically.

    Args:
        images: uint8, or float32 with 0 for black and 1 for white, [m, 3, S, S].
        labels: int64 [m].
        weights: Weights of the images in the loss, float [m].
        class_names: Names of the classes, by label.
        card: How the set was made, as plain values.
        target: Folder to write: absent or empty.
        format: "imagefolder": one folder per class with one lossless PNG per image, `weights.csv`, and `README.md`
            with the card. Folders sort in class order, so a reader that numbers them alphabetically finds the same
            labels. "safetensors": `distilled.safetensors` with all tensors and the class names as metadata, and
            `card.json`. An image folder of floats, or with extras, holds `distilled.safetensors` too, because PNG files
            hold bytes only. "huggingface": see `write_hub_folder`; of floats, with `distilled.safetensors` too.
        stored: Labels to write beside the set; None: none.
        extras: Soft labels, learning rate and decoder, as in `StoredSet`; None: none.

    Raises:
        DDBenchError: If the format is unknown, shapes or types do not match, or the folder is not empty or cannot be
            written. In this case no files remain.
    """
    from ddbench.core.files import atomic_write
    from ddbench.distillation.distilled_set import as_bytes
    from ddbench.results.hub_export import write_hub_folder

    if format not in FORMATS:
        raise unknown("export format", format, FORMATS)
    extras = extras or {}
    _check(images, labels, weights, class_names, extras)
    if target.is_symlink() or target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise DDBenchError(f"{target} is not an empty folder: choose a new one, existing files are not overwritten")
    if not target.name:
        raise DDBenchError(f"{target} is the working directory, which cannot be replaced: choose a new folder")
    plain_card = json.loads(json.dumps(card, default=str))
    with atomic_write(target) as partial:
        partial.mkdir()
        is_float, decoder = images.is_floating_point(), ""
        if "decode_factor" in extras:
            factor = int(extras["decode_factor"])
            decoder = (
                f"Each image holds {factor} x {factor} images of its class. Cut it into these parts and enlarge each\n"
                "to the size of the image (bilinear) before training.\n\n"
            )
        if format == "imagefolder":
            _write_imagefolder(partial, as_bytes(images), labels, weights, class_names)
            beside = [*(["float32 pixels"] if is_float else []), *(name.replace("_", " ") for name in extras)]
            text = (
                "Each folder is a class, in the order of the labels. `weights.csv` lists the label, the class and the\n"
                "weight in the loss of each file (the weights of a class sum to 1).\n\n"
            )
            readme = _readme(images, class_names, plain_card, text + decoder, ", ".join(beside))
            (partial / "README.md").write_text(readme, encoding="utf-8")
        elif format == "huggingface":
            text = "The column `weight` is the weight of an image in the loss (the weights of a class sum to 1).\n\n"
            readme = _readme(images, class_names, plain_card, text + decoder, "float32 pixels" if is_float else "")
            write_hub_folder(partial, as_bytes(images), labels, weights, class_names, extras, readme)
        else:
            text = json.dumps({"class_names": list(class_names), **plain_card}, indent=2, ensure_ascii=False)
            (partial / "card.json").write_text(text + "\n", encoding="utf-8")
        if format == "safetensors" or is_float or (extras and format == "imagefolder"):
            _write_tensors(partial, {"images": images, "labels": labels, "weights": weights, **extras}, class_names)
        if stored is not None:
            stored.write(partial)


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


def _check(
    images: Tensor, labels: Tensor, weights: Tensor, class_names: Sequence[str], extras: Mapping[str, Tensor]
) -> None:
    from ddbench.distillation.units import check_extras

    if str(images.dtype) not in ("torch.uint8", "torch.float32") or images.ndim != 4 or images.shape[1] != 3:
        raise DDBenchError(
            f"cannot export images of {images.dtype} {list(images.shape)}: uint8 or float32 [m, 3, S, S] is needed"
        )
    if not len(images) == len(labels) == len(weights):
        raise DDBenchError(f"cannot export {len(images)} images with {len(labels)} labels and {len(weights)} weights")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(class_names):
        raise DDBenchError(f"cannot export labels beyond the {len(class_names)} classes")
    check_extras(extras, len(labels), len(class_names), images.shape[-1], "cannot export a set with")


def _write_imagefolder(
    folder: Path, images: Tensor, labels: Tensor, weights: Tensor, class_names: Sequence[str]
) -> None:
    from PIL import Image

    folders = folder_names(class_names)
    for name in folders:
        (folder / name).mkdir()
    written = [0] * len(folders)
    with (folder / "weights.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "label", "class", "weight"))
        for image, label, weight in zip(images.cpu(), labels.tolist(), weights.tolist(), strict=True):
            name = f"{folders[label]}/{written[label]:05d}.png"
            written[label] += 1
            Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(folder / name)
            rows.writerow((name, label, class_names[label], repr(weight)))


def _write_tensors(folder: Path, tensors: Mapping[str, Tensor], class_names: Sequence[str]) -> None:
    from safetensors.torch import save_file

    space = {"pixels": "unit"} if tensors["images"].is_floating_point() else {}
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        folder / "distilled.safetensors",
        metadata={"class_names": json.dumps(list(class_names), ensure_ascii=False), **space},
    )


def _readme(images: Tensor, class_names: Sequence[str], card: dict[str, Any], files: str, beside: str) -> str:
    """Returns the text of the card.

    Args:
        images: The images.
        class_names: The names of the classes.
        card: How the set was made.
        files: What the files hold, a paragraph.
        beside: What only `distilled.safetensors` holds; empty: nothing.
    """
    side = images.shape[-1]
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
        f"{len(images)} images of {len(class_names)} classes, {side} x {side} pixels, exported by ddbench.\n"
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
    parts = (stored.images, stored.labels, stored.weights, stored.class_names)
    export_set(*parts, record.model_dump(mode="json"), target, format, labels, stored.extras)
    return target


def required_set(record: Record, cache: Cache, open_dataset: OpenDataset) -> StoredSet:
    """Reads the distilled set of a record from the cache, as `stored_set`.

    Raises:
        DDBenchError: The set is no longer in the cache, or as in `stored_set`.
    """
    stored = stored_set(record, cache, open_dataset)
    if stored is None:
        raise DDBenchError(f"the distilled set of {record.name} is no longer in the cache: run it again")
    return stored


def stored_set(record: Record, cache: Cache, open_dataset: OpenDataset) -> StoredSet | None:
    """Reads the distilled set of a record from the cache.

    Args:
        record: The record.
        cache: The cache.
        open_dataset: Opens a dataset by name and configuration. Used for sets of real images.

    Returns:
        The set, or None if it is no longer in the cache.

    Raises:
        DDBenchError: If the set in the cache differs from the record's, because it was computed again or because the
            real images changed, or if it is not a distilled set.
    """
    from ddbench.config.schema import DataConfig
    from ddbench.distillation.distilled_set import assemble

    stored = _stored_parts(record, cache)
    if stored is None:
        return None
    units, parts, class_names = stored
    if "images" in parts:
        return _of_parts(parts, class_names)
    name = record.configuration["dataset"]
    dataset = open_dataset(name, DataConfig(**record.configuration["data"]))
    distilled = assemble(dataset, units, (), record.method)
    if distilled.digest != record.distilled_digest:
        raise DDBenchError(f"the images of {name} are no longer the images of {record.name}")
    return _of_parts({**parts, **distilled.tensors, "images": distilled.images}, class_names)


def stored_images(record: Record, cache: Cache) -> StoredSet | None:
    """Reads the distilled set of a record from the cache, as `stored_set`; None for a set of real images."""
    stored = _stored_parts(record, cache)
    return _of_parts(*stored[1:]) if stored and "images" in stored[1] else None


def _stored_parts(record: Record, cache: Cache) -> tuple[list[dict[str, Tensor]], dict[str, Tensor], list[str]] | None:
    """The tensors of each unit, those of the set, and the names of its classes."""
    from ddbench.distillation.distilled_set import joined, set_digest

    keys = record.keys.get("distill", [])
    units = [unit for unit in (cache.read("distill", key) for key in keys) if unit is not None]
    if not units or len(units) < len(keys):
        return None
    class_names = units[0].meta.get("classes")
    if not isinstance(class_names, list) or not all(isinstance(name, str) for name in class_names):
        raise DDBenchError(f"the distilled set of {record.name} in the cache has no class names")
    tensors = [dict(unit.tensors) for unit in units]
    parts = joined(tensors, len(class_names))
    if "images" in parts and set_digest(parts) != record.distilled_digest:
        raise DDBenchError(f"the set in the cache is no longer the set of {record.name}: run it again")
    return tensors, parts, class_names


def _of_parts(parts: Mapping[str, Tensor], class_names: list[str]) -> StoredSet:
    from ddbench.distillation.units import extras_in

    return StoredSet(parts["images"], parts["labels"], parts["weights"], class_names, extras_in(parts))
