"""Writes a distilled set for use outside: an image folder, or one safetensors file. Whole or not at all."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ddbench.core.errors import DDBenchError, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.config.schema import DataConfig
    from ddbench.data.dataset import Dataset
    from ddbench.storage.cache import Cache

    OpenDataset = Callable[[str, DataConfig], Dataset]
    from ddbench.results.records import Record

FORMATS = ("imagefolder", "safetensors")


def export_set(
    images: Tensor,
    labels: Tensor,
    weights: Tensor,
    class_names: Sequence[str],
    card: Mapping[str, Any],
    target: Path,
    format: str,
) -> None:
    """Writes `images` (uint8 [m, 3, S, S]), `labels` (int64 [m]), `weights` (float [m]) into folder `target`.

    imagefolder: a lossless PNG an image in a folder a class, `weights.csv`, and `README.md` with the card.
    Folders sort in class order, so that a reader which numbers them alphabetically finds the same labels.
    safetensors: `distilled.safetensors` (the three tensors; class names in its metadata) and `card.json`.

    `card` says how the set was made (plain values). Raises DDBenchError for an unknown format, shapes that
    do not belong together, a target that holds something, or a folder that cannot be written; then nothing
    is left behind.
    """
    from ddbench.core.files import atomic_write

    if format not in FORMATS:
        raise unknown("export format", format, FORMATS)
    _check(images, labels, weights, class_names)
    if target.is_symlink() or target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise DDBenchError(f"{target} is not an empty folder: choose a new one, nothing is written over")
    if not target.name:
        raise DDBenchError(f"{target} is the working directory, which cannot be replaced: choose a new folder")
    plain_card = json.loads(json.dumps(card, default=str))
    with atomic_write(target) as half_written:
        half_written.mkdir()
        if format == "imagefolder":
            _write_imagefolder(half_written, images, labels, weights, class_names, plain_card)
        else:
            _write_safetensors(half_written, images, labels, weights, class_names, plain_card)


def folder_names(class_names: Sequence[str]) -> list[str]:
    """A folder name a class: letters, digits, `_`, `-` and inner dots only, so that no name leads elsewhere.

    Where these are not distinct (on any file system) or not in alphabetical order, the class number stands
    first: `003_dog`.
    """
    names = [re.sub(r"[^\w.-]+", "_", name).strip(".")[:80] or "class" for name in class_names]
    distinct = len({name.casefold() for name in names}) == len(names)
    if distinct and names == sorted(names):
        return names
    digits = len(str(len(names) - 1))
    return [f"{number:0{digits}d}_{name}" for number, name in enumerate(names)]


def _check(images: Tensor, labels: Tensor, weights: Tensor, class_names: Sequence[str]) -> None:
    if str(images.dtype) != "torch.uint8" or images.ndim != 4 or images.shape[1] != 3:
        raise DDBenchError(f"cannot export images of {images.dtype} {list(images.shape)}: uint8 [m, 3, S, S] is needed")
    if not len(images) == len(labels) == len(weights):
        raise DDBenchError(f"cannot export {len(images)} images with {len(labels)} labels and {len(weights)} weights")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(class_names):
        raise DDBenchError(f"cannot export labels beyond the {len(class_names)} classes")


def _write_imagefolder(
    folder: Path,
    images: Tensor,
    labels: Tensor,
    weights: Tensor,
    class_names: Sequence[str],
    card: dict[str, Any],
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
    (folder / "README.md").write_text(_readme(images, class_names, card), encoding="utf-8")


def _write_safetensors(
    folder: Path,
    images: Tensor,
    labels: Tensor,
    weights: Tensor,
    class_names: Sequence[str],
    card: dict[str, Any],
) -> None:
    from safetensors.torch import save_file

    tensors = {"images": images, "labels": labels, "weights": weights}
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        folder / "distilled.safetensors",
        metadata={"class_names": json.dumps(list(class_names), ensure_ascii=False)},
    )
    text = json.dumps({"class_names": list(class_names), **card}, indent=2, ensure_ascii=False)
    (folder / "card.json").write_text(text + "\n", encoding="utf-8")


def _readme(images: Tensor, class_names: Sequence[str], card: dict[str, Any]) -> str:
    side = images.shape[-1]
    made = yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=100)
    # An indented block, not a fenced one: nothing in a name can end it.
    made = "".join(f"    {line}\n" for line in made.splitlines())
    return (
        "# A distilled set\n\n"
        f"{len(images)} images of {len(class_names)} classes, {side} x {side} pixels, made by ddbench.\n"
        "They stand for the whole training set: train a network from scratch on them.\n\n"
        "Folders are classes, in the order of the labels. `weights.csv` gives every file its label,\n"
        "its class and its weight in the loss (the weights of a class sum to 1).\n\n"
        f"## How they were made\n\n{made}"
    )


def export_run(record: Record, cache: Cache, open_dataset: OpenDataset, target: Path, format: str) -> Path:
    """Exports the distilled set of `record` from the cache into folder `target`, and returns it.

    Raises DDBenchError where the set is no longer in the cache (run the same command again), and as
    `export_set`.
    """
    found = stored_set(record, cache, open_dataset)
    if found is None:
        raise DDBenchError(f"the distilled set of {record.name} is not in the cache any more: run it again")
    export_set(*found, record.model_dump(mode="json"), target, format)
    return target


def stored_set(
    record: Record, cache: Cache, open_dataset: OpenDataset
) -> tuple[Tensor, Tensor, Tensor, list[str]] | None:
    """Images (uint8 [m, 3, S, S]), labels, weights and class names of a record's distilled set, from the cache.

    None where it is no longer there. Raises DDBenchError where it is not the record's any more: made again with other
    bits, of real images that are not the same, or no distilled set.
    """
    import torch

    from ddbench.config.schema import DataConfig
    from ddbench.distillation.distilled_set import assemble, check_stored, class_weights
    from ddbench.storage.cache import digest_of

    found = [cache.read("distill", key) for key in record.keys.get("distill", [])]
    units = [unit for unit in found if unit is not None]
    if not units or len(units) < len(found):
        return None
    class_names = units[0].meta.get("classes")
    if not isinstance(class_names, list) or not all(isinstance(name, str) for name in class_names):
        raise DDBenchError(f"the distilled set of {record.name} in the cache names no classes")
    check_stored([unit.tensors for unit in units], len(class_names))
    if "images" in units[0].tensors:
        parts = {name: torch.cat([unit.tensors[name] for unit in units]) for name in units[0].tensors}
        weights = class_weights(parts["labels"], parts.get("weights"))
        found_digest = digest_of({"body": parts["images"], "labels": parts["labels"], "weights": weights})
        if found_digest != record.distilled_digest:
            raise DDBenchError(f"the set in the cache is not that of {record.name} any more: run it again")
        return parts["images"], parts["labels"], weights, class_names
    name = record.configuration["dataset"]
    real = open_dataset(name, DataConfig(**record.configuration["data"]))
    chosen = assemble(real, [unit.tensors for unit in units], (), record.method)
    if chosen.digest != record.distilled_digest:
        raise DDBenchError(f"the images of {name} are not those of {record.name} any more")
    return chosen.images, chosen.labels, chosen.weights, class_names
