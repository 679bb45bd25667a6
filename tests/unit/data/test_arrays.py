"""Datasets of raw pixels: the fixed split of digits, and the binary formats against files made by hand."""

from __future__ import annotations

import gzip
import hashlib
import struct
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.io import savemat

from ddbench.api.dataset import Download, RemoteFile
from ddbench.core.errors import DDBenchError
from ddbench.data.arrays import (
    CIFAR10,
    CIFAR100,
    FASHION_CLASSES,
    CifarLayout,
    open_cifar,
    open_digits,
    open_fashion,
    open_svhn,
)
from ddbench.data.download import install
from ddbench.data.registry import ddbench_datasets
from ddbench.data.source import ArraySplit

if TYPE_CHECKING:
    from conftest import Server

RNG = np.random.default_rng(0)


def arrays(split: object) -> ArraySplit:
    assert isinstance(split, ArraySplit)
    return split


def test_digits_split_is_whole_stratified_and_fixed() -> None:
    from sklearn.datasets import load_digits

    source = open_digits()
    train, val = arrays(source.train), arrays(source.val)
    assert (len(train.labels), len(val.labels)) == (1437, 360)
    bundled = load_digits()
    expected = sorted(zip(bundled.target.tolist(), (bundled.images / 16).reshape(-1, 64).tolist(), strict=True))
    both = [*zip(train.labels.tolist(), (train.pixels / 255).reshape(-1, 64).tolist(), strict=True)]
    both += zip(val.labels.tolist(), (val.pixels / 255).reshape(-1, 64).tolist(), strict=True)
    for (label, pixels), (true_label, true_pixels) in zip(sorted(both), expected, strict=True):
        assert label == true_label
        np.testing.assert_allclose(pixels, true_pixels, atol=0.5 / 255 + 1e-9)
    share = np.bincount(val.labels) / (np.bincount(val.labels) + np.bincount(train.labels))
    assert np.all(np.abs(share - 0.2) < 0.005)
    assert source.fingerprint() == open_digits().fingerprint()


def test_digits_are_normalised_by_their_own_training_statistics() -> None:
    (spec,) = (spec for spec in ddbench_datasets() if spec.name == "digits")
    pixels = arrays(open_digits().train).pixels / 255
    assert spec.mean == pytest.approx([pixels.mean()] * 3, abs=1e-4)
    assert spec.std == pytest.approx([pixels.std()] * 3, abs=1e-4)


def write_cifar(folder: Path, layout: CifarLayout) -> dict[str, list[tuple[int, np.ndarray]]]:
    """Random records in the layout's files; returns label and H x W x RGB pixels of each, split by split."""
    folder.mkdir(parents=True)
    written = {}
    for split, files, total in (
        ("train", layout.train, layout.records[0]),
        ("val", layout.val, layout.records[1]),
    ):
        labels = np.arange(total) % layout.classes
        planes = RNG.integers(0, 256, (total, 3, 32, 32), dtype=np.uint8)
        per_file = total // len(files)
        for number, file in enumerate(files):
            with (folder / file).open("wb") as out:
                for index in range(number * per_file, (number + 1) * per_file):
                    coarse = bytes([7] * (layout.label_bytes - 1))
                    out.write(coarse + bytes([int(labels[index])]) + planes[index].tobytes())
        written[split] = [(int(k), np.moveaxis(image, 0, 2)) for k, image in zip(labels, planes, strict=True)]
    (folder / layout.names).write_text("\n".join(f"name{k}" for k in range(layout.classes)) + "\n\n")
    return written


@pytest.mark.parametrize("official", [CIFAR10, CIFAR100], ids=lambda layout: layout.name)
def test_cifar_binary(tmp_path: Path, official: CifarLayout) -> None:
    layout = replace(official, records=(500, 200))
    written = write_cifar(tmp_path / layout.folder, layout)
    for data_dir in (tmp_path, tmp_path / layout.folder):
        source = open_cifar(data_dir, layout)
        assert source.class_names == tuple(f"name{k}" for k in range(layout.classes))
        for name, split in (("train", arrays(source.train)), ("val", arrays(source.val))):
            expected = sorted(written[name], key=lambda pair: pair[0])
            assert split.labels.tolist() == [k for k, _ in expected]
            np.testing.assert_array_equal(split.pixels, np.stack([image for _, image in expected]))


def test_cifar_refuses_what_is_broken_and_what_is_pickled(tmp_path: Path) -> None:
    layout = replace(CIFAR10, records=(50, 20))
    folder = tmp_path / layout.folder
    write_cifar(folder, layout)
    complete = (folder / "test_batch.bin").read_bytes()
    (folder / "test_batch.bin").write_bytes(complete[:-1])
    with pytest.raises(DDBenchError, match=r"test_batch.bin hold 61459 bytes, expected 61460 \(20 images"):
        open_cifar(tmp_path, layout)
    (folder / "test_batch.bin").write_bytes(b"\x0a" + complete[1:])
    with pytest.raises(DDBenchError, match=r"label 10 is out of range 0\.\.9"):
        open_cifar(tmp_path, layout)
    (folder / "test_batch.bin").unlink()
    with pytest.raises(DDBenchError, match=r"cannot read .*test_batch.bin: No such file"):
        open_cifar(tmp_path, layout)
    folder.rename(tmp_path / "elsewhere")
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DDBenchError, match=r"only the Python version .*pickled and never read"):
        open_cifar(tmp_path, layout)


def write_fashion(folder: Path, records: tuple[int, int], packed: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    folder.mkdir(parents=True)
    written = {}
    for split, count in zip(("train", "t10k"), records, strict=True):
        labels = (np.arange(count) % 10).astype(np.uint8)
        pixels = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        files = {
            f"{split}-images-idx3-ubyte": struct.pack(">4I", 0x803, count, 28, 28) + pixels.tobytes(),
            f"{split}-labels-idx1-ubyte": struct.pack(">2I", 0x801, count) + labels.tobytes(),
        }
        for name, data in files.items():
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
        written[split] = (labels, pixels)
    return written


@pytest.mark.parametrize(("below", "packed"), [("fashion-mnist", True), ("FashionMNIST/raw", False)])
def test_fashion_mnist(tmp_path: Path, below: str, packed: bool) -> None:
    written = write_fashion(tmp_path / below, (30, 20), packed)
    for data_dir in (tmp_path, tmp_path / below):
        source = open_fashion(data_dir, (30, 20))
        assert source.class_names == FASHION_CLASSES
        for name, split in (("train", arrays(source.train)), ("t10k", arrays(source.val))):
            labels, pixels = written[name]
            order = np.argsort(labels, kind="stable")
            np.testing.assert_array_equal(split.labels, labels[order])
            np.testing.assert_array_equal(split.pixels, pixels[order])
        image = np.asarray(source.train.image(0))
        assert image.shape == (28, 28, 3)
        assert (image == image[:, :, :1]).all()


def test_fashion_mnist_refuses_what_is_broken(tmp_path: Path) -> None:
    folder = tmp_path / "fashion-mnist"
    write_fashion(folder, (30, 20), packed=True)
    path = folder / "train-images-idx3-ubyte.gz"
    complete = path.read_bytes()
    path.write_bytes(complete[: len(complete) // 2])
    with pytest.raises(DDBenchError, match=r"train-images-idx3-ubyte.gz cannot be unpacked"):
        open_fashion(tmp_path, (30, 20))
    path.write_bytes(gzip.compress(gzip.decompress(complete) + b"\0" * 50_000_000))
    with pytest.raises(DDBenchError, match="is not an idx file of 30 x 28 x 28 bytes"):
        open_fashion(tmp_path, (30, 20))
    path.unlink()
    with pytest.raises(DDBenchError, match=r"neither .*train-images-idx3-ubyte nor .*\.gz exists"):
        open_fashion(tmp_path, (30, 20))


SVHN = ("train_32x32.mat", "test_32x32.mat")


def write_svhn(folder: Path, records: tuple[int, int] = (30, 20)) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Files as MATLAB writes them: X [32, 32, 3, n] and y [n, 1] with labels 1 to 10, compressed."""
    folder.mkdir(parents=True)
    written = {}
    for name, count in zip(SVHN, records, strict=True):
        pixels = RNG.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)
        savemat(folder / name, {"X": pixels, "y": labels[:, None]}, do_compression=True)
        written[name] = (labels, pixels)
    return written


def test_svhn_label_10_is_the_digit_0(tmp_path: Path) -> None:
    written = write_svhn(tmp_path / "svhn")
    for data_dir in (tmp_path, tmp_path / "svhn"):
        source = open_svhn(data_dir, (30, 20))
        assert source.class_names == tuple("0123456789")
        for name, split in zip(SVHN, (arrays(source.train), arrays(source.val)), strict=True):
            labels, pixels = written[name]
            order = np.argsort(labels % 10, kind="stable")
            np.testing.assert_array_equal(split.labels, labels[order] % 10)
            for image, position in zip(split.pixels, order, strict=True):
                np.testing.assert_array_equal(image, pixels[..., position])


def test_svhn_is_what_torchvision_downloads_and_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import SVHN as Theirs

    published = {url: f"md5:{md5}" for url, _, md5 in (Theirs.split_list[name] for name in ("train", "test"))}
    installed: list[Download] = []
    monkeypatch.setattr("ddbench.data.download.install", lambda download, *_: installed.append(download))
    (spec,) = (spec for spec in ddbench_datasets() if spec.name == "svhn")
    assert spec.fetch is not None
    spec.fetch(tmp_path, lambda event: None)
    assert {file.url: file.digest for file in installed[0].files} == published
    write_svhn(tmp_path / "svhn")
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda *_: True)
    source = open_svhn(tmp_path, (30, 20))
    for name, split in (("train", arrays(source.train)), ("test", arrays(source.val))):
        theirs = Theirs(str(tmp_path / "svhn"), split=name)
        order = np.argsort(theirs.labels, kind="stable")
        np.testing.assert_array_equal(split.labels, theirs.labels[order])
        np.testing.assert_array_equal(split.pixels, theirs.data.transpose(0, 2, 3, 1)[order])


def test_svhn_is_downloaded_as_two_checked_files(server: Server, tmp_path: Path) -> None:
    written = write_svhn(tmp_path / "there")
    server.files = {name: (tmp_path / "there" / name).read_bytes() for name in SVHN}
    files = tuple(RemoteFile(server.url(name), f"md5:{hashlib.md5(server.files[name]).hexdigest()}") for name in SVHN)
    download = Download("svhn", files, 10**6, unpack=False)
    good = server.files[SVHN[1]]
    server.files[SVHN[1]] = good[:-1] + b"!"
    with pytest.raises(DDBenchError, match=r"test_32x32.mat is not the published file"):
        install(download, tmp_path / "data", lambda event: None)
    assert not (tmp_path / "data" / "svhn").exists()
    server.files[SVHN[1]] = good
    install(download, tmp_path / "data", lambda event: None)
    assert len(open_svhn(tmp_path / "data", (30, 20)).train.labels) == len(written[SVHN[0]][0])


def test_svhn_refuses_what_is_broken_or_has_other_arrays(tmp_path: Path) -> None:
    write_svhn(tmp_path / "svhn")
    path = tmp_path / "svhn" / "train_32x32.mat"
    complete = path.read_bytes()
    pixels, labels = np.zeros((32, 32, 3, 30), np.uint8), np.ones((30, 1), np.uint8)
    for data in (b"", b"no MATLAB file", complete[: len(complete) // 2], complete[:3000] + b"!!" + complete[3002:]):
        path.write_bytes(data)
        with pytest.raises(DDBenchError, match=r"train_32x32.mat .*damaged"):
            open_svhn(tmp_path, (30, 20))
    for arrays in (
        {"X": pixels[..., :29], "y": labels[:29]},
        {"X": pixels},
        {"X": pixels.astype(np.float64), "y": labels},
        {"X": np.array([[1, "a"]], dtype=object), "y": labels},
    ):
        savemat(path, arrays)
        with pytest.raises(DDBenchError, match=r"does not hold the uint8 arrays X \[32, 32, 3, 30\] and y \[30, 1\]"):
            open_svhn(tmp_path, (30, 20))
    for label, message in ((11, r"label 11 is out of range 0\.\.9"), (1, "class 0 has no image")):
        savemat(path, {"X": pixels, "y": labels * np.uint8(label)})
        with pytest.raises(DDBenchError, match=message):
            open_svhn(tmp_path, (30, 20))
    path.unlink()
    with pytest.raises(DDBenchError, match=r"cannot read .*train_32x32.mat: No such file"):
        open_svhn(tmp_path, (30, 20))
