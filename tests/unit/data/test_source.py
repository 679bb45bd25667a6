"""The fingerprint: what moves it and what does not."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ddbench.api.dataset import Source
from ddbench.core.errors import DDBenchError
from ddbench.data import source as data_source
from ddbench.data.decode import CorruptImage
from ddbench.data.folders import open_imagefolder
from ddbench.data.source import ArraySplit

MakeFolder = Callable[..., Path]


def fingerprint(root: Path) -> str:
    return open_imagefolder(root).fingerprint()


def swap_one_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


def test_it_follows_the_content_not_the_place_or_the_time(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder()
    before = fingerprint(root)
    assert len(before) == 32
    moved = tmp_path / "another place" / "pictures"
    shutil.copytree(root, moved)
    for path in moved.rglob("*.jpg"):
        os.utime(path, (1, 1))
    assert fingerprint(moved) == before


def test_every_change_of_the_data_moves_it(make_folder: MakeFolder) -> None:
    def swap(root: Path) -> None:
        one, two = root / "train" / "ant" / "0.jpg", root / "train" / "bee" / "0.jpg"
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)

    changes = [
        lambda root: swap_one_byte(root / "train" / "ant" / "0.jpg"),
        lambda root: swap_one_byte(root / "val" / "bee" / "1.jpg"),
        lambda root: (root / "train" / "ant" / "0.jpg").unlink(),
        lambda root: (root / "train" / "ant" / "0.jpg").rename(root / "train" / "bee" / "9.jpg"),
        lambda root: (root / "train" / "ant" / "0.jpg").rename(root / "train" / "ant" / "9.jpg"),
        lambda root: [(root / split / "ant").rename(root / split / "asp") for split in ("train", "val")],
        swap,
    ]
    seen = {fingerprint(make_folder())}
    for change in changes:
        root = make_folder()
        change(root)
        seen.add(fingerprint(root))
        shutil.rmtree(root)
    assert len(seen) == len(changes) + 1


def test_it_is_this(tmp_path: Path) -> None:
    """Literally the fingerprint of these files, as keys and records of other days hold it."""
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "0.png").write_bytes(f"{split} {name}".encode())
    assert fingerprint(tmp_path) == "0ccbc2208cda9f0ce7cff85252d4315e"


def test_arrays_count_with_labels_and_class_names() -> None:
    pixels = np.zeros((4, 2, 2), dtype=np.uint8)
    labels = np.array([1, 0, 1, 0])

    def of(pixels: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> str:
        split = ArraySplit(pixels, labels)
        return Source(names, split, split).fingerprint()

    other = pixels.copy()
    other[2, 1, 1] = 1
    names = ("a", "b")
    prints = {of(pixels, labels, names), of(other, labels, names), of(pixels, 1 - labels * 0, names)}
    assert len(prints | {of(pixels, labels, ("a", "c"))}) == 4


def test_arrays_are_sorted_by_class_keeping_their_order() -> None:
    labels = np.array([2, 0, 1, 0, 2])
    split = ArraySplit(np.arange(5, dtype=np.uint8).reshape(5, 1, 1), labels)
    assert split.labels.tolist() == [0, 0, 1, 2, 2]
    assert split.pixels.ravel().tolist() == [1, 3, 2, 0, 4]


def test_a_file_that_goes_away_is_named(make_folder: MakeFolder) -> None:
    root = make_folder()
    source = open_imagefolder(root)
    (root / "train" / "ant" / "1.jpg").unlink()
    with pytest.raises(DDBenchError, match=r"cannot read .*train/ant/1.jpg: No such file"):
        source.fingerprint()


def test_a_link_that_leads_nowhere_is_named_with_its_target(make_folder: MakeFolder) -> None:
    root = make_folder()
    (root / "train" / "ant" / "9.jpg").symlink_to("../annex/a.jpg")
    with pytest.raises(DDBenchError, match=r"ant/9.jpg is a link to \.\./annex/a.jpg, which does not exist$"):
        open_imagefolder(root).fingerprint()


def test_a_file_that_is_too_large_is_refused_by_its_size_alone(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the header of an image; the fingerprint follows its size, not its content."""
    root = make_folder()
    large = root / "train" / "ant" / "0.jpg"
    monkeypatch.setattr(data_source, "MAX_FILE_BYTES", 2000)
    header = large.read_bytes()
    before = fingerprint(root)
    prints = []
    for padding in (b"a" * 2000, b"b" * 2000, b"b" * 2001):
        large.write_bytes(header + padding)
        prints.append(fingerprint(root))
    assert prints[0] == prints[1]
    assert len({before, *prints}) == 3
    train = open_imagefolder(root).train
    for read in (train.shape, train.image):
        with pytest.raises(CorruptImage, match="more than 2000 bytes"):
            read(0)
        assert read(1)
