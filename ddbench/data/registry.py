"""The datasets that come with ddbench, `imagefolder:PATH` and `hf:NAME`. Imports no torch, Pillow or numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.api.dataset import DatasetSpec, Download, MissingDataError, RemoteFile, Report, default_data_dir
from ddbench.api.hookspecs import hookimpl
from ddbench.config.datasets import FOLDER_PREFIX, HUB_PREFIX, dataset_name, hub_reference, is_recorded_folder
from ddbench.config.recipes import parse_plain_yaml
from ddbench.core.errors import DDBenchError, unknown

if TYPE_CHECKING:
    from ddbench.api.dataset import Source


def _open(name: str, reader: str, data_dir: Path | None) -> Source:
    """Opens the files of a dataset in `datasets.yaml`. The readers are imported only then."""
    from ddbench.data import arrays, folders, imagenet

    readers: dict[str, Callable[[], Source]] = {
        "digits": arrays.open_digits,
        "cifar10": lambda: arrays.open_cifar(data_dir, arrays.CIFAR10),
        "cifar100": lambda: arrays.open_cifar(data_dir, arrays.CIFAR100),
        "fashion-mnist": lambda: arrays.open_fashion(data_dir),
        "svhn": lambda: arrays.open_svhn(data_dir),
        "tiny-imagenet": lambda: folders.open_tiny_imagenet(data_dir),
        "imagenet-1k": lambda: imagenet.open_imagenet(data_dir),
        "fastai": lambda: imagenet.open_fastai(name, data_dir),
        "subset": lambda: imagenet.open_subset(name, data_dir),
    }
    return readers[reader]()


def _fetch(download: Download, data_dir: Path, report: Report) -> None:
    from ddbench.data.download import install

    install(download, data_dir, report)


def _download(
    url: str, folder: str, max_mib: int, archive: str = "", single: Mapping[str, str] | None = None
) -> Download:
    """Returns the download of an archive at `url` with an MD5 digest, or of single files below `url` with theirs."""
    digests = {url: archive} if archive else {f"{url}/{name}": md5 for name, md5 in (single or {}).items()}
    files = tuple(RemoteFile(address, f"md5:{md5}") for address, md5 in digests.items())
    return Download(folder, files, max_mib * 1024**2, unpack=bool(archive))


def _built_in(name: str, reader: str = "", files: Mapping[str, Any] | None = None, **attributes: Any) -> DatasetSpec:
    """Returns the specification of an entry of `datasets.yaml`."""
    attributes |= {key: tuple(attributes[key]) for key in ("mean", "std") if key in attributes}
    fetch = partial(_fetch, _download(attributes["download"], **files)) if files else None
    return DatasetSpec(name, open=partial(_open, name, reader or name), fetch=fetch, **attributes)


def _imagefolder(reference: str) -> DatasetSpec:
    folder = reference.removeprefix(FOLDER_PREFIX)

    def open_folder(data_dir: Path | None) -> Source:
        from ddbench.data.folders import find_imagefolder, open_imagefolder

        root = find_imagefolder(reference, data_dir) if is_recorded_folder(reference) else Path(folder)
        return open_imagefolder(root)

    return DatasetSpec(
        name=dataset_name(reference),
        about="your own images: PATH/train/CLASS/ and PATH/val/CLASS/, or PATH/CLASS/ with data.split",
        source="your own images",
        native_size=224,
        open=open_folder,
        layout="PATH/train/CLASS/*.{jpg,png,...} and PATH/{val,valid,validation,test}/CLASS/*.{jpg,png,...}; or "
        "PATH/CLASS/*.{jpg,png,...} with --set data.split=0.2",
    )


def _hub(reference: str) -> DatasetSpec:
    def open_dataset(data_dir: Path | None) -> Source:
        from ddbench.data.hub import open_hub

        return open_hub(reference, data_dir)

    def fetch(data_dir: Path, report: Report) -> None:
        from ddbench.data.hub import fetch_hub

        fetch_hub(reference, data_dir, report)

    return DatasetSpec(
        name=dataset_name(reference),
        about="a dataset of the Hugging Face hub, hf:OWNER/NAME[@REVISION][:SPLIT], or of parquet files, hf:./FOLDER",
        source="the dataset's page on the Hugging Face hub",
        native_size=224,
        open=open_dataset,
        layout="hf/OWNER--NAME/ with parquet files that have one column of images and one of class labels",
        download="the Hugging Face hub",
        fetch=fetch if hub_reference(reference).repository else None,
    )


@cache
def _specs() -> tuple[DatasetSpec, ...]:
    entries = parse_plain_yaml((Path(__file__).parent / "datasets.yaml").read_text(encoding="utf-8"))
    return (
        *(_built_in(name, **entry) for name, entry in entries.items()),
        _imagefolder("imagefolder:PATH"),
        replace(_hub("hf:OWNER/NAME"), name="hf:NAME"),
    )


@hookimpl
def ddbench_datasets() -> Iterable[DatasetSpec]:
    """Returns the datasets that come with ddbench. `imagefolder:PATH` and `hf:NAME` are placeholders."""
    return _specs()


def resolve_dataset(name: str, specs: Iterable[DatasetSpec]) -> DatasetSpec:
    """Finds a dataset by name, or makes a specification for an image folder or a dataset of the hub.

    It does not open any files.

    Args:
        name: The name, `imagefolder:PATH`, `hf:NAME`, or the name of an image folder in a record
            (`imagefolder:pets@0123abcd`), which is searched in the data folder.
        specs: The known datasets.

    Returns:
        The specification.

    Raises:
        DDBenchError: The name is unknown.
    """
    if name == FOLDER_PREFIX:
        raise DDBenchError("imagefolder: needs a path, e.g. imagefolder:~/pictures with train/ and val/ in it")
    if name.startswith(FOLDER_PREFIX):
        return _imagefolder(name)
    by_name = {spec.name: spec for spec in specs}
    if name.startswith(HUB_PREFIX) and name not in by_name:
        return _hub(name)
    if name not in by_name:
        raise unknown("dataset", name, by_name)
    return by_name[name]


def open_source(spec: DatasetSpec, data_dir: Path | None, report: Report, download: bool = True) -> Source:
    """Opens a dataset. If `data_dir` is None, a missing dataset is downloaded first.

    Args:
        spec: The dataset's specification.
        data_dir: The data folder; None: the default folder, to which missing files are downloaded.
        report: Called with progress events.
        download: Whether missing files are downloaded.

    Returns:
        The source.

    Raises:
        MissingDataError: The dataset is missing and is not downloaded.
        DDBenchError: The files are unreadable or not in the expected layout, or the download failed.
    """
    try:
        return spec.open(data_dir)
    except MissingDataError as error:
        if spec.fetch is None:
            raise
        if data_dir is not None or not download:
            run = "a run without --data-dir and DDBENCH_DATA" if data_dir is not None else "a run"
            raise MissingDataError(f"{error}; {run} downloads it from {spec.download}") from error
    spec.fetch(default_data_dir(), report)
    return spec.open(None)
