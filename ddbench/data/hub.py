"""Opens datasets of the Hugging Face hub, and local folders of parquet files in their layout: `hf:...`."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from ddbench.api.dataset import MissingDataError, Report, Source, default_data_dir
from ddbench.config.datasets import HubReference, hub_reference, own_name
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.core.files import expand_user
from ddbench.data.folders import VALIDATION_PARTS
from ddbench.data.source import EncodedSplit

FOLDER = "hf"
"""The folder of downloaded datasets in the data folder."""
SET_COLUMNS = ("weight", "probabilities", "logits", "learning_rate", "decode_factor")
"""Columns of a distilled set that `ddbench export` writes beside image and label."""
T = TypeVar("T")


class HubSplit(EncodedSplit):
    """The images of a split in parquet files, encoded, in memory.

    Args:
        what: The name of the dataset, for messages.
        images: The encoded images, a `pyarrow.ChunkedArray` of bytes, in the order of the files.
        labels: Integers [n], in the same order.
        columns: Other columns by name, with n rows, in the same order.

    Attributes:
        columns: The other columns, in the order of this split.
    """

    def __init__(self, what: str, images: Any, labels: NDArray[np.int64], columns: Mapping[str, NDArray[Any]]) -> None:
        self._what, self._images = what, images
        self._rows = np.argsort(labels, kind="stable")
        self.columns = {name: values[self._rows] for name, values in columns.items()}
        super().__init__(labels[self._rows])

    def name(self, index: int) -> str:
        """Returns the dataset and the row of an image."""
        return f"{self._what}, row {self._rows[index]}"

    def _read(self, index: int, count: int = -1) -> bytes:
        content: bytes = self._images[int(self._rows[index])].as_py()
        return content[:count] if count >= 0 else content

    def identity(self) -> Iterator[bytes]:
        """Yields label and SHA-256 of every image, for the fingerprint."""
        for label, digest in zip(self.labels.tolist(), self.digests, strict=True):
            yield json.dumps([label, digest.tobytes().hex()]).encode()


def require_packages(what: str) -> None:
    """Refuses what needs the packages of the hub where they are not installed.

    Args:
        what: The beginning of the message, e.g. an option.

    Raises:
        DDBenchError: A package is not installed.
    """
    for package in ("datasets", "huggingface_hub", "pyarrow"):
        if importlib.util.find_spec(package) is None:
            raise DDBenchError(f"{what} needs the package {package}, which is not installed: pip install 'ddbench[hf]'")


def open_hub(reference: str, data_dir: Path | None) -> Source:
    """Opens a dataset `hf:OWNER/NAME[@REVISION][:SPLIT]` or `hf:./FOLDER[:SPLIT]`, without network access.

    Training images are the split `train`, or the only one; validation images are the first split of
    `VALIDATION_PARTS`. With a split in the name, its images are training images, and there are no validation images.

    Args:
        reference: The name.
        data_dir: The data folder, which holds downloaded datasets in `hf/`; None: the default one.

    Returns:
        The source.

    Raises:
        MissingDataError: The files are not there.
        DDBenchError: A package is not installed, the splits or the columns are ambiguous, or the files are damaged.
    """
    parsed = hub_reference(reference)
    files, features = _list_files(_find(reference, parsed, data_dir), reference)
    train = _train_split(reference, parsed.split, [*files])
    parts = [] if parsed.split else [part for part in VALIDATION_PARTS if part in files and part != train]
    names, kept = _read_split(reference, train, files[train], features)
    val, notes = None, []
    if parts:
        val_names, val = _read_split(reference, parts[0], files[parts[0]], features)
        if val_names != names:
            raise DDBenchError(f"{reference}: the splits {train} and {parts[0]} have different class names")
        others = "".join(f", those of {part} are not used" for part in parts[1:])
        notes.append(f"the validation images of {reference} are those of the split {parts[0]}{others}")
    for part, split in ((train, kept), *([(parts[0], val)] if val else [])):
        counts = np.bincount(split.labels, minlength=len(names))
        if not counts.all():
            raise DDBenchError(f"{reference}: the split {part} has no image of class '{names[int(counts.argmin())]}'")
    return Source(names, kept, val, names, tuple(notes))


def open_hub_split(reference: str, report: Report) -> tuple[tuple[str, ...], HubSplit]:
    """Opens one split, e.g. a distilled set. A dataset of the hub is downloaded into the default data folder.

    Args:
        reference: As in `open_hub`. The split may be left out if there is only one.
        report: Called with progress events.

    Returns:
        The class names and the images.

    Raises:
        DDBenchError: As in `open_hub`; or the download failed.
    """
    parsed = hub_reference(reference)
    try:
        folder = _find(reference, parsed, None)
    except MissingDataError:
        if parsed.repository is None:
            raise
        fetch_hub(reference, default_data_dir(), report)
        folder = _find(reference, parsed, None)
    files, features = _list_files(folder, reference)
    if parsed.split is None and len(files) > 1:
        splits = [*files]
        raise DDBenchError(f"{reference} has the splits {', '.join(splits)}: name one, e.g. {reference}:{splits[0]}")
    split = _train_split(reference, parsed.split, [*files])
    return _read_split(reference, split, files[split], features, SET_COLUMNS)


def fetch_hub(reference: str, data_dir: Path, report: Report) -> None:
    """Downloads the parquet files of a dataset of the hub. The folder appears only when it is complete.

    Args:
        reference: As in `open_hub`.
        data_dir: The data folder.
        report: Called with progress events.

    Raises:
        DDBenchError: The hub cannot be reached, or holds no parquet files of this name.
    """
    _call(f"{reference} cannot be downloaded", lambda: _download(reference, data_dir, report))


def _download(reference: str, data_dir: Path, report: Report) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    parsed, hub, kind = hub_reference(reference), HfApi(), "dataset"
    repository = str(parsed.repository)
    commit = hub.dataset_info(repository, revision=parsed.revision).sha
    listed = hub.list_repo_files(repository, revision=commit, repo_type=kind)
    names = [name for name in listed if name == "README.md" or name.endswith(".parquet")]
    if not any(name.endswith(".parquet") for name in names):
        raise DDBenchError(
            f"{reference} holds no parquet files; the hub may have converted ones: hf:{repository}@refs/convert/parquet"
        )
    if odd := next((name for name in names if ".." in Path(name).parts or Path(name).is_absolute()), None):
        raise DDBenchError(f"{reference} holds a file outside of its folder: {odd}")
    target, store = data_dir / _folder_of(parsed), data_dir / ".downloads"
    store.mkdir(parents=True, exist_ok=True)
    # A partial download is continued, but only with the files of the same commit.
    scratch = store / f"{target.name}-{commit}"
    disable_progress_bars()
    with FileLock(store / f"{target.name}.lock"):
        if target.exists():
            return
        report(Event("started", "data", f"downloading {reference}", total=len(names)))
        for done, name in enumerate(names, 1):
            hub.hf_hub_download(repository, name, repo_type=kind, revision=commit, local_dir=scratch)
            report(Event("step", "data", f"downloading {reference}", done, len(names), counted="file"))
        report(Event("finished", "data", f"downloading {reference}", len(names), len(names)))
        shutil.rmtree(scratch / ".cache", ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        scratch.replace(target)


def _folder_of(parsed: HubReference) -> str:
    revision = f"@{parsed.revision}" if parsed.revision else ""
    return f"{FOLDER}/{f'{parsed.repository}{revision}'.replace('/', '--')}"


def _find(reference: str, parsed: HubReference, data_dir: Path | None) -> Path:
    """Finds the folder of a dataset. It may not be that of the record with this name."""
    base = expand_user(data_dir or default_data_dir())
    if parsed.repository is not None:
        folders = [base / _folder_of(parsed)]
    elif own_name(reference) == reference:
        folders = [expand_user(Path(str(parsed.folder)))]
    else:  # the name in a record contains no path
        itself = [base] if base.name == parsed.folder or any(base.glob("*.parquet")) else []
        folders = [base / str(parsed.folder), *itself, Path(str(parsed.folder))]
    for folder in folders:
        if folder.is_dir():
            return folder
    if parsed.repository is not None:
        raise MissingDataError(f"{reference}: no folder {folders[0]}")
    raise MissingDataError(f"{reference}: no folder {folders[0]}; give the folder that holds it with --data-dir")


def _call(problem: str, read: Callable[[], T]) -> T:
    """Turns every exception of the libraries into one line: they raise many types."""
    try:
        return read()
    except DDBenchError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DDBenchError(f"{problem}: {reason[:300]}") from error


def _list_files(folder: Path, reference: str) -> tuple[dict[str, list[str]], Mapping[str, Any] | None]:
    """Returns the parquet files of each split, and the features if the README states them."""
    require_packages(reference)
    from datasets import load_dataset_builder
    from datasets.packaged_modules.parquet.parquet import Parquet

    if not any(folder.rglob("*.parquet")):
        raise DDBenchError(f"{reference}: {folder} holds no parquet files")
    with tempfile.TemporaryDirectory() as scratch:
        problem = f"{reference}: the files in {folder} cannot be assigned to splits"
        builder = _call(problem, lambda: load_dataset_builder(str(folder), cache_dir=scratch))
    if not isinstance(builder, Parquet) or not builder.config.data_files:
        raise DDBenchError(f"{reference}: {folder} holds other files than parquet files, which are not read")
    files = {str(split): [str(path) for path in paths] for split, paths in builder.config.data_files.items()}
    for path in (path for paths in files.values() for path in paths):
        if not Path(path).resolve().is_relative_to(folder.resolve()):
            raise DDBenchError(f"{reference}: the README names a file outside of the folder: {path}")
    return files, builder.info.features


def _train_split(reference: str, chosen: str | None, splits: Sequence[str]) -> str:
    if chosen is not None and chosen not in splits:
        raise DDBenchError(f"{reference}: there is no split '{chosen}', only {', '.join(splits)}")
    split = chosen or ("train" if "train" in splits else splits[0])
    if chosen is None and split != "train" and len(splits) > 1:
        raise DDBenchError(
            f"{reference} has the splits {', '.join(splits)} and none named train: name the one with training images, "
            f"e.g. {reference}:{split}, and take validation images from it with --set data.split=0.2"
        )
    return split


def _read_split(
    reference: str, split: str, files: Sequence[str], features: Mapping[str, Any] | None, others: Sequence[str] = ()
) -> tuple[tuple[str, ...], HubSplit]:
    """Reads class names, labels and encoded images of a split, and those of the other columns that it has."""
    import pyarrow.compute
    import pyarrow.parquet
    from datasets import ClassLabel, Features, Image

    def read() -> tuple[tuple[str, ...], Any, Any, dict[str, NDArray[Any]]]:
        known = features or Features.from_arrow_schema(pyarrow.parquet.read_schema(files[0]))
        image, label = (_column(reference, known, kind) for kind in (Image, ClassLabel))
        more = [name for name in others if name in known]
        table = pyarrow.parquet.read_table([*files], columns=[image, label, *more], partitioning=None)
        stored = [known[image].cast_storage(chunk) for chunk in table[image].chunks]
        content = [pyarrow.compute.struct_field(chunk, "bytes") for chunk in stored]
        columns = {name: np.array(table[name].to_pylist()) for name in more}
        return tuple(known[label].names), pyarrow.chunked_array(content, pyarrow.binary()), table[label], columns

    names, images, column, columns = _call(f"{reference}: the files of split {split} cannot be read", read)
    if not len(column):
        raise DDBenchError(f"{reference}: the split {split} is empty")
    if images.null_count or column.null_count:
        raise DDBenchError(f"{reference}: images or labels of the split {split} are missing in the parquet files")
    labels = column.to_numpy().astype(np.int64)
    if labels.min() < 0 or labels.max() >= len(names):
        ends = f"from {labels.min()} to {labels.max()}"
        raise DDBenchError(
            f"{reference}: the labels of the split {split} are {ends}, and there are {len(names)} classes"
        )
    return names, HubSplit(f"{reference}, split {split}", images, labels, columns)


def _column(reference: str, features: Mapping[str, Any], kind: type) -> str:
    """Returns the only column of a kind of feature."""
    columns = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(columns) != 1:
        present = (
            f"several columns of type {kind.__name__}: {', '.join(columns)}"
            if columns
            else (f"no column of type {kind.__name__} (its columns: {', '.join(features)})")
        )
        raise DDBenchError(f"{reference} has {present}; exactly one is needed")
    return columns[0]
