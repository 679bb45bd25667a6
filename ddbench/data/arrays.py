"""Opens datasets of raw pixels: digits, the binary version of CIFAR, Fashion-MNIST, and SVHN."""

import functools
import gzip
import importlib.util
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddbench.api.dataset import MissingDataError, Source
from ddbench.core.errors import DDBenchError
from ddbench.data.decode import Pixels
from ddbench.data.folders import find_folder
from ddbench.data.source import ArraySplit

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def open_digits() -> Source:
    """Opens scikit-learn's bundled 8 x 8 handwritten digits: 1,437 for training, 360 for validation.

    Gray levels 0 to 16 are scaled to 0 to 255. The split is fixed, without a random draw: every fifth of the images,
    sorted by class, is for validation.

    Returns:
        The source.

    Example:
        >>> source = open_digits()
        >>> len(source.train.labels), len(source.val.labels)
        (1437, 360)
    """
    table = _digits()
    order = np.argsort(table[:, -1], kind="stable")
    pixels = np.rint(table[order, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = table[order, -1].astype(np.int64)
    val = np.arange(len(order)) % 5 == 0
    names = tuple(str(k) for k in range(10))
    return Source(names, ArraySplit(pixels[~val], labels[~val]), ArraySplit(pixels[val], labels[val]), names)


@functools.cache
def _digits() -> NDArray[np.float64]:
    """Reads the file of scikit-learn's digits: a row has 64 gray levels and the label.

    `sklearn.datasets.load_digits` returns the same values, but its import takes a second.
    """
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    return np.loadtxt(Path(spec.origin).with_name("datasets") / "data" / "digits.csv.gz", delimiter=",")


@dataclass(frozen=True)
class CifarLayout:
    """The files of a binary version of CIFAR. A record has one or two label bytes and 3072 pixels.

    Attributes:
        name: The dataset's name.
        folder: The folder of the binary version.
        pickled: The folder of the Python version, which is not read.
        train: The training files.
        val: The validation files.
        names: The file with the class names.
        label_bytes: Label bytes per record; the last one is used.
        classes: The number of classes.
        records: The number of training and of validation images.
    """

    name: str
    folder: str
    pickled: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    names: str
    label_bytes: int
    classes: int
    records: tuple[int, int]


CIFAR10 = CifarLayout(
    name="cifar10",
    folder="cifar-10-batches-bin",
    pickled="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    val=("test_batch.bin",),
    names="batches.meta.txt",
    label_bytes=1,
    classes=10,
    records=(50_000, 10_000),
)
CIFAR100 = CifarLayout(
    name="cifar100",
    folder="cifar-100-binary",
    pickled="cifar-100-python",
    train=("train.bin",),
    val=("test.bin",),
    names="fine_label_names.txt",
    label_bytes=2,
    classes=100,
    records=(50_000, 10_000),
)


def open_cifar(data_dir: Path | None, layout: CifarLayout) -> Source:
    """Opens the binary version of CIFAR. The Python version is never read, because its pickles can run code.

    Args:
        data_dir: The data folder; None: the default one.
        layout: The files of the dataset.

    Returns:
        The source.

    Raises:
        DDBenchError: A file is missing, has a wrong length, or has labels out of range.
    """
    try:
        root = find_folder(layout.name, data_dir, (layout.folder,), (*layout.train, *layout.val))
    except MissingDataError as error:
        if data_dir and ((data_dir / layout.pickled).is_dir() or data_dir.name == layout.pickled):
            raise MissingDataError(
                f"{layout.name}: {data_dir} has only the Python version ({layout.pickled}), which is pickled "
                f"and never read; add the binary version ({layout.folder})"
            ) from error
        raise
    names = tuple(_read(root / layout.names, 2**20).decode("utf-8", "replace").split())
    if len(names) != layout.classes:
        raise DDBenchError(f"{root / layout.names} names {len(names)} classes, expected {layout.classes}")
    train, val = (
        _cifar_split(root, files, layout, count)
        for files, count in zip((layout.train, layout.val), layout.records, strict=True)
    )
    return Source(names, train, val, names)


def _cifar_split(root: Path, files: tuple[str, ...], layout: CifarLayout, count: int) -> ArraySplit:
    size = layout.label_bytes + 3 * 32 * 32
    data = b"".join(_read(root / file, count * size) for file in files)
    if len(data) != count * size:
        raise DDBenchError(
            f"{root}: {', '.join(files)} hold {len(data)} bytes, expected {count * size} ({count} images); "
            "damaged or cut off"
        )
    records = np.frombuffer(data, dtype=np.uint8).reshape(count, size)
    labels = records[:, layout.label_bytes - 1]
    _check_labels(labels, layout.classes, root / files[0])
    pixels = records[:, layout.label_bytes :].reshape(count, 3, 32, 32).transpose(0, 2, 3, 1)
    return ArraySplit(pixels, labels)


def open_fashion(data_dir: Path | None, records: tuple[int, int] = (60_000, 10_000)) -> Source:
    """Opens Fashion-MNIST from its four idx files, gzipped or not.

    The files are in fashion-mnist/ or in torchvision's FashionMNIST/raw/.

    Args:
        data_dir: The data folder; None: the default one.
        records: The number of training and of validation images.

    Returns:
        The source.

    Raises:
        DDBenchError: A file is missing or damaged, has a wrong length, or has labels out of range.
    """
    marks = [f"{split}-{kind}-ubyte*" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    root = find_folder("fashion-mnist", data_dir, ("fashion-mnist", "FashionMNIST/raw"), marks)
    splits = []
    for split, count in zip(("train", "t10k"), records, strict=True):
        pixels = _read_idx(root, f"{split}-images-idx3-ubyte", (count, 28, 28))
        labels = _read_idx(root, f"{split}-labels-idx1-ubyte", (count,))
        _check_labels(labels, len(FASHION_CLASSES), root / f"{split}-labels-idx1-ubyte")
        splits.append(ArraySplit(pixels, labels))
    return Source(FASHION_CLASSES, splits[0], splits[1], FASHION_CLASSES)


def _read_idx(root: Path, name: str, shape: tuple[int, ...]) -> Pixels:
    """Reads a uint8 idx file: 0, 0, type 8, the number of dimensions, each dimension (big-endian), the data."""
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    length = len(header) + int(np.prod(shape))
    path = root / name
    data = _read(path, length) if path.is_file() else _gunzip(root / f"{name}.gz", length)
    if not data.startswith(header) or len(data) != length:
        raise DDBenchError(f"{path} is not an idx file of {' x '.join(map(str, shape))} bytes; damaged or cut off")
    return np.frombuffer(data, dtype=np.uint8, offset=len(header)).reshape(shape)


def _gunzip(path: Path, length: int) -> bytes:
    if not path.is_file():
        raise DDBenchError(f"neither {path.with_suffix('')} nor {path.name} exists")
    try:
        with gzip.open(path) as file:
            return file.read(length + 1)  # read one byte more than expected, to detect a longer file
    except (OSError, EOFError, zlib.error) as error:
        raise DDBenchError(f"{path} cannot be unpacked: {error}") from error


def open_svhn(data_dir: Path | None, records: tuple[int, int] = (73_257, 26_032)) -> Source:
    """Opens the cropped digits of SVHN from its two MATLAB files. The additional training images are not used.

    The files are in svhn/, or in the data folder itself. In the files, the label of digit 0 is 10.

    Args:
        data_dir: The data folder; None: the default one.
        records: The number of training and of validation images.

    Returns:
        The source.

    Raises:
        DDBenchError: A file is missing or damaged, holds other arrays, or has labels out of range.
    """
    files = ("train_32x32.mat", "test_32x32.mat")
    root = find_folder("svhn", data_dir, ("svhn", "SVHN"), files)
    train, val = (_svhn_split(root / file, count) for file, count in zip(files, records, strict=True))
    names = tuple(str(k) for k in range(10))
    return Source(names, train, val, names)


def _svhn_split(path: Path, count: int) -> ArraySplit:
    from scipy.io import loadmat, whosmat  # type: ignore[import-untyped]

    expected = {"X": (32, 32, 3, count), "y": (count, 1)}
    try:
        with path.open("rb") as file:
            stated = {name: shape for name, shape, kind in whosmat(file) if kind == "uint8"}
            # The headers are checked first, because the arrays may unpack to any size.
            arrays = loadmat(file, variable_names=list(expected)) if expected.items() <= stated.items() else {}
    except OSError as error:
        raise DDBenchError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # the reader raises many types of exceptions for invalid bytes
        raise DDBenchError(f"{path} is damaged, or is no MATLAB file of version 5: {error}") from error
    if any(name not in arrays or arrays[name].dtype != np.uint8 for name in expected):
        shapes = " and ".join(f"{name} {list(shape)}" for name, shape in expected.items())
        raise DDBenchError(f"{path} does not hold the uint8 arrays {shapes}; it is no file of SVHN, or is damaged")
    labels = arrays["y"][:, 0]
    labels[labels == 10] = 0
    _check_labels(labels, 10, path)
    return ArraySplit(arrays["X"].transpose(3, 0, 1, 2), labels)


def _read(path: Path, max_bytes: int) -> bytes:
    """Returns the content of a file, but at most `max_bytes` + 1 bytes."""
    try:
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        raise DDBenchError(f"cannot read {path}: {error.strerror or error}") from error


def _check_labels(labels: NDArray[np.uint8], classes: int, path: Path) -> None:
    counts = np.bincount(labels, minlength=classes)
    if len(counts) > classes:
        raise DDBenchError(f"{path}: label {len(counts) - 1} is out of range 0..{classes - 1}; the file is damaged")
    if not counts.all():
        raise DDBenchError(f"{path}: class {int(np.argmin(counts))} has no image; the file is damaged")
