"""The datasets that come with ddbench, `imagefolder:PATH` and `hf:NAME`. Imports no torch, Pillow or numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.api.dataset import DatasetSpec, Download, MissingDataError, RemoteFile, Report, default_data_dir
from ddbench.api.hookspecs import hookimpl
from ddbench.config.datasets import FOLDER_PREFIX, HUB_PREFIX, dataset_name, hub_reference, is_recorded_folder
from ddbench.core.errors import DDBenchError, unknown

if TYPE_CHECKING:
    from ddbench.api.dataset import Source

_GIB = 1024**3


def _digits(data_dir: Path | None) -> Source:
    from ddbench.data.arrays import open_digits

    return open_digits()


def _tiny_imagenet(data_dir: Path | None) -> Source:
    from ddbench.data.folders import open_tiny_imagenet

    return open_tiny_imagenet(data_dir)


def _imagenet(data_dir: Path | None) -> Source:
    from ddbench.data.imagenet import open_imagenet

    return open_imagenet(data_dir)


def _cifar10(data_dir: Path | None) -> Source:
    from ddbench.data.arrays import CIFAR10, open_cifar

    return open_cifar(data_dir, CIFAR10)


def _cifar100(data_dir: Path | None) -> Source:
    from ddbench.data.arrays import CIFAR100, open_cifar

    return open_cifar(data_dir, CIFAR100)


def _fashion(data_dir: Path | None) -> Source:
    from ddbench.data.arrays import open_fashion

    return open_fashion(data_dir)


def _svhn(data_dir: Path | None) -> Source:
    from ddbench.data.arrays import open_svhn

    return open_svhn(data_dir)


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


def _fetch(download: Download) -> Callable[[Path, Report], None]:
    def fetch(data_dir: Path, report: Report) -> None:
        from ddbench.data.download import install

        install(download, data_dir, report)

    return fetch


def _files(folder: str, url: str, md5s: Mapping[str, str], max_bytes: int) -> Callable[[Path, Report], None]:
    files = tuple(RemoteFile(f"{url}/{name}", f"md5:{md5}") for name, md5 in md5s.items())
    return _fetch(Download(folder, files, max_bytes, unpack=False))


def _archive(folder: str, url: str, digest: str, max_bytes: int) -> Callable[[Path, Report], None]:
    return _fetch(Download(folder, (RemoteFile(url, digest),), max_bytes))


_MTT = "Cazenavette et al., Dataset Distillation by Matching Training Trajectories, CVPR 2022 (its utils.py)"
_CMC = "Tian, Krishnan and Isola, Contrastive Multiview Coding, ECCV 2020 (its imagenet100.txt)"
_FASTAI_URL = "https://s3.amazonaws.com/fast-ai-imageclas"
_NETTE_MD5, _WOOF_MD5 = "fe2fc210e6bb7c5664d602c3cd71e612", "9aafe18bcdb1632c4249a76c458465ba"
_TINY_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_CIFAR100_URL = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_FASHION_FILES = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
_SVHN_URL = "http://ufldl.stanford.edu/housenumbers"
_SVHN_FILES = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}


def _fastai(name: str, about: str, train_size: int, val_size: int, md5: str) -> DatasetSpec:
    folder, url = f"{name}2", f"{_FASTAI_URL}/{name}2.tgz"

    def open_folder(data_dir: Path | None) -> Source:
        from ddbench.data.imagenet import open_fastai

        return open_fastai(name, data_dir)

    return DatasetSpec(
        name=name,
        about=about,
        source="Howard, https://github.com/fastai/imagenette",
        native_size=224,
        open=open_folder,
        classes=10,
        train_size=train_size,
        val_size=val_size,
        layout=f"{folder}/, {folder}-320/ or {folder}-160/, each with train/WNID/ and val/WNID/",
        download=url,
        fetch=_archive(folder, url, f"md5:{md5}", 3 * _GIB),
    )


def _subset(name: str, about: str, source: str, classes: int, train_size: int | None = None) -> DatasetSpec:
    def open_classes(data_dir: Path | None) -> Source:
        from ddbench.data.imagenet import open_subset

        return open_subset(name, data_dir)

    return DatasetSpec(
        name=name,
        about=about,
        source=source,
        native_size=224,
        open=open_classes,
        classes=classes,
        train_size=train_size,
        val_size=50 * classes,
        layout=f"the folder of imagenet-1k, or {name}/, with train/WNID/ and val/WNID/",
    )


_SPECS = (
    DatasetSpec(
        name="digits",
        about="8x8 handwritten digits, bundled with scikit-learn: needs no download",
        source="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (its test part)",
        native_size=8,
        open=_digits,
        mean=(0.3058, 0.3058, 0.3058),
        std=(0.3761, 0.3761, 0.3761),
        classes=10,
        train_size=1437,
        val_size=360,
    ),
    _fastai(
        "imagenette", "ten easily distinguished classes of ImageNet", 9_469, 3_925, "fe2fc210e6bb7c5664d602c3cd71e612"
    ),
    _fastai("imagewoof", "ten breeds of dogs of ImageNet", 9_025, 3_929, _WOOF_MD5),
    DatasetSpec(
        name="tiny-imagenet",
        about="200 classes of ImageNet at 64x64",
        source="Le and Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS231n 2015",
        native_size=64,
        open=_tiny_imagenet,
        classes=200,
        train_size=100_000,
        val_size=10_000,
        layout="tiny-imagenet-200/, also inside tiny-imagenet-mini/, with train/, val/, wnids.txt, words.txt",
        download=_TINY_URL,
        fetch=_archive("tiny-imagenet-200", _TINY_URL, "md5:90528d7ca1a48142e341f4ef8d21d0de", _GIB),
    ),
    DatasetSpec(
        name="imagenet-1k",
        about="ImageNet, 1000 classes (ILSVRC 2012)",
        source="Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015",
        native_size=224,
        open=_imagenet,
        classes=1000,
        train_size=1_281_167,
        val_size=50_000,
        layout="imagenet-1k/, imagenet/, ILSVRC2012/ or ILSVRC/Data/CLS-LOC/, with train/WNID/ and val/WNID/",
    ),
    _subset("imagenette-ilsvrc", "the classes of imagenette; the 500 validation images of ILSVRC", _MTT, 10, 12_894),
    _subset("imagewoof-ilsvrc", "the classes of imagewoof; the 500 validation images of ILSVRC", _MTT, 10, 12_454),
    _subset("imagefruit", "ten kinds of fruit of ImageNet", _MTT, 10),
    _subset("imagemeow", "ten kinds of cats of ImageNet", _MTT, 10),
    _subset("imagesquawk", "ten kinds of birds of ImageNet", _MTT, 10),
    _subset("imageyellow", "ten yellowish classes of ImageNet", _MTT, 10),
    _subset("imagenet-100", "100 classes of ImageNet", _CMC, 100),
    DatasetSpec(
        name="cifar10",
        about="ten classes of 32x32 photographs (binary version)",
        source="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
        native_size=32,
        open=_cifar10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        classes=10,
        train_size=50_000,
        val_size=10_000,
        layout="cifar-10-batches-bin/ with data_batch_{1..5}.bin, test_batch.bin, batches.meta.txt",
        download=_CIFAR10_URL,
        fetch=_archive("cifar-10-batches-bin", _CIFAR10_URL, "md5:c32a1d4ab5d03f1284b67883e8d87530", _GIB // 2),
    ),
    DatasetSpec(
        name="cifar100",
        about="100 classes of 32x32 photographs (binary version, fine labels)",
        source="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
        native_size=32,
        open=_cifar100,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        classes=100,
        train_size=50_000,
        val_size=10_000,
        layout="cifar-100-binary/ with train.bin, test.bin, fine_label_names.txt",
        download=_CIFAR100_URL,
        fetch=_archive("cifar-100-binary", _CIFAR100_URL, "md5:03b5dce01913d631647c71ecec9e9cb8", _GIB // 2),
    ),
    DatasetSpec(
        name="fashion-mnist",
        about="ten classes of 28x28 gray images of clothes",
        source="Xiao, Rasul and Vollgraf, arXiv:1708.07747",
        native_size=28,
        open=_fashion,
        mean=(0.2860, 0.2860, 0.2860),
        std=(0.3530, 0.3530, 0.3530),
        classes=10,
        train_size=60_000,
        val_size=10_000,
        layout="fashion-mnist/ or FashionMNIST/raw/ with the four idx files, gzipped or not",
        download=_FASHION_URL,
        fetch=_files("fashion-mnist", _FASHION_URL, _FASHION_FILES, _GIB // 8),
    ),
    DatasetSpec(
        name="svhn",
        about="ten classes of 32x32 photographs of house numbers (cropped digits, without the additional images)",
        source="Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, NIPS workshop 2011",
        native_size=32,
        open=_svhn,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        classes=10,
        train_size=73_257,
        val_size=26_032,
        layout="svhn/ with train_32x32.mat and test_32x32.mat",
        download=_SVHN_URL,
        fetch=_files("svhn", _SVHN_URL, _SVHN_FILES, _GIB // 4),
    ),
    _imagefolder("imagefolder:PATH"),
    replace(_hub("hf:OWNER/NAME"), name="hf:NAME"),
)


@hookimpl
def ddbench_datasets() -> Iterable[DatasetSpec]:
    """Returns the datasets that come with ddbench. `imagefolder:PATH` and `hf:NAME` are placeholders."""
    return _SPECS


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
