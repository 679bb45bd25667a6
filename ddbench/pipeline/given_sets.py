"""Distilled sets that the user gives: from files and from records to the digests that experiments name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddbench.config.datasets import HUB_PREFIX, dataset_name
from ddbench.config.given_sets import DIGITS, method_name
from ddbench.core.canonical import canonical_json
from ddbench.core.errors import DDBenchError
from ddbench.data.dataset import Dataset
from ddbench.distillation.distilled_set import exact_weights
from ddbench.distillation.hub_set import read_hub_set
from ddbench.distillation.set_classes import match_classes, read_mapping
from ddbench.distillation.set_files import Form, SetFile, fit_tensor, read_set
from ddbench.distillation.units import OF_WHOLE_SET, extras_in, soft_labels_in
from ddbench.results.stored_sets import required_set
from ddbench.storage.artifacts import digest_of

if TYPE_CHECKING:
    from ddbench.api.dataset import DatasetInfo, Report
    from ddbench.api.distiller import Distiller
    from ddbench.results.records import Record
    from ddbench.results.stored_sets import OpenDataset
    from ddbench.storage.artifacts import Artifact
    from ddbench.storage.cache import Cache


@dataclass(frozen=True)
class GivenSet:
    """A distilled set with the classes of a dataset.

    Attributes:
        tensors: `images` (uint8 or float32 [m, 3, S, S]), `labels` (int64 [m]), and optionally `weights` (float64 [m])
            and `EXTRAS`.
        class_names: The classes of the dataset, by label.
        origin: Where it is from: name, SHA-256 and number of its files; or the name of a record and its digest.
        set_classes: The name of each class in the files, by label.
        notes: What was converted or left out, in sentences.
    """

    tensors: dict[str, Tensor]
    class_names: tuple[str, ...]
    origin: dict[str, Any]
    set_classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """A digest of all tensors, classes and files, which does not depend on names and places."""
        source = {name: value for name, value in self.origin.items() if name != "name"}
        meta = canonical_json({"classes": list(self.class_names), "source": source})
        return digest_of(self.tensors, meta)[:DIGITS]

    @property
    def method(self) -> str:
        """The name of its method."""
        return method_name(str(self.origin["name"]), self.digest)

    @property
    def extras(self) -> list[str]:
        """The names of its soft labels and its learning rate, if it has them."""
        return [name for name in extras_in(self.tensors) if name != "decode_factor"]

    @property
    def counts(self) -> list[int]:
        """The number of images of each class."""
        return class_counts(self.tensors["labels"], len(self.class_names))


def class_counts(labels: Tensor, classes: int) -> list[int]:
    """Returns the number of images of each class."""
    counts: list[int] = torch.bincount(labels, minlength=classes).tolist()
    return counts


def open_set(path: Path, dataset: Dataset, pixels: str | None = None, classes: Path | None = None) -> GivenSet:
    """Reads a set from files.

    Args:
        path: The file or folder; see `ddbench.distillation.set_files.read_set`.
        dataset: The dataset whose classes it has.
        pixels: The space of float images.
        classes: The file that names the dataset's class of each class of the set; None: they are found by name.

    Raises:
        DDBenchError: The files are no distilled set of this dataset. The message is one line.
    """
    form = Form(dataset.config.image_size, dataset.config.resize, pixels)
    read = read_set(path, form)
    own = path.absolute()
    name = own.name if own.is_dir() else own.stem
    return _with_classes(read, {"name": name, "files": read.files, "sha256": read.digest}, dataset, classes)


def open_hub_set(
    reference: str, dataset: Dataset, report: Report, pixels: str | None = None, classes: Path | None = None
) -> GivenSet:
    """Reads a set from a dataset of the Hugging Face hub, or from a local folder of parquet files.

    Args:
        reference: `hf:OWNER/NAME[@REVISION][:SPLIT]` or `hf:./FOLDER[:SPLIT]`.
        dataset: The dataset whose classes it has.
        report: Called with progress events.
        pixels: As in `open_set`.
        classes: As in `open_set`.

    Raises:
        DDBenchError: It is no distilled set of this dataset, or cannot be downloaded. The message is one line.
    """
    read = read_hub_set(reference, Form(dataset.config.image_size, dataset.config.resize, pixels), report)
    name = dataset_name(reference).removeprefix(HUB_PREFIX)
    return _with_classes(read, {"name": name, "files": read.files, "sha256": read.digest}, dataset, classes)


def set_of_record(
    record: Record, cache: Cache, open_dataset: OpenDataset, dataset: Dataset, classes: Path | None = None
) -> GivenSet:
    """Reads the set of a record from the cache.

    Args:
        record: The record.
        cache: The cache.
        open_dataset: Opens the dataset of the record, for a set of real images.
        dataset: The dataset that it is evaluated on.
        classes: As in `open_set`.

    Raises:
        DDBenchError: The set is not in the cache, or does not have the classes of the dataset.
    """
    stored = required_set(record, cache, open_dataset)
    fitted, notes = fit_tensor(stored.images, Form(dataset.config.image_size, dataset.config.resize), stored.extras)
    names, digest = tuple(stored.class_names), record.distilled_digest
    read = SetFile(fitted, stored.labels, names, stored.weights, digest, 0, notes, stored.extras)
    origin = {"name": record.name, "record": record.name, "distilled_digest": record.distilled_digest}
    return _with_classes(read, origin, dataset, classes)


def _with_classes(read: SetFile, origin: dict[str, Any], dataset: Dataset, classes: Path | None) -> GivenSet:
    info = dataset.info
    try:
        kind = soft_labels_in(read.extras)
        columns = read.extras[kind].shape[1] if kind else info.num_classes
        if columns != info.num_classes:
            raise DDBenchError(f"the soft labels are for {columns} classes, and the dataset has {info.num_classes}")
        if classes is None:
            numbers = match_classes(read.names, info.class_names, info.class_titles)
        else:
            numbers = read_mapping(classes, read.names, info.class_names)
        labels = torch.tensor(numbers)[read.labels]
        empty = next((label for label, count in enumerate(class_counts(labels, len(numbers))) if not count), None)
        if empty is not None:
            raise DDBenchError(f"the set has no image of class {empty} ('{info.class_names[empty]}')")
        tensors = {"images": read.images, "labels": labels}
        if read.weights is not None:
            tensors["weights"] = exact_weights(labels, read.weights)
        own_class = torch.tensor([numbers.index(label) for label in range(len(numbers))])
        for name, value in read.extras.items():
            tensors[name] = value if name in OF_WHOLE_SET else value[:, own_class].contiguous()
    except DDBenchError as error:
        raise DDBenchError(f"{origin['name']}: {error}") from error
    by_label = tuple(read.names[number] for number in own_class.tolist())
    return GivenSet(tensors, tuple(info.class_names), origin, by_label, read.notes)


def check_given_set(method: Distiller, artifact: Artifact, info: DatasetInfo, ipc: int) -> None:
    """Checks that a set in the cache fits an experiment.

    Args:
        method: The method, which names the set.
        artifact: The artifact of stage `given`.
        info: The dataset.
        ipc: Images per class.

    Raises:
        DDBenchError: Its classes, its image size or its number of images are others.
    """
    name, images, labels = method.given_set(), artifact.tensors["images"], artifact.tensors["labels"]
    if artifact.meta["classes"] != list(info.class_names):
        raise DDBenchError(f"{name} has other classes than {info.name}: give its file or folder again")
    size = images.shape[-1]
    if size != info.image_size:
        sizes = f"{name} was read at {size} px, and this run has {info.image_size} px"
        raise DDBenchError(f"{sizes}: give its file or folder again")
    counts = class_counts(labels, info.num_classes)
    if method.recover_steps() is not None:
        if min(counts) < ipc:
            raise DDBenchError(f"method.initial: a class of the set has {min(counts)} images, fewer than --ipc {ipc}")
    elif ipc != mean_count(counts):
        raise DDBenchError(f"--ipc {ipc}: {name} has {mean_count(counts)} images per class")


def mean_count(counts: Sequence[int]) -> int:
    """Returns the IPC of a set: the rounded mean of the numbers of images of its classes, at least 1."""
    return max(1, round(sum(counts) / len(counts)))
