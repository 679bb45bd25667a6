"""Digests of large datasets: every file is read once, and again only if it changed."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ddbench.api.dataset import Source
from ddbench.core.events import Event
from ddbench.data import content
from ddbench.data.content import read_digests
from ddbench.data.folders import open_imagefolder
from ddbench.storage.artifacts import read_tensors, write_tensors

MakeFolder = Callable[..., Path]


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dataset is large, and its files changed long ago."""
    monkeypatch.setattr(content, "KEPT_ABOVE_BYTES", 0)
    monkeypatch.setattr(content, "SETTLED_SECONDS", 0.0)


def opened(root: Path, cache: Path) -> tuple[Source, int]:
    """The dataset with its digests, and how many files were read for them."""
    time.sleep(0.02)  # the clock of the file system is coarse
    events: list[Event] = []
    source = open_imagefolder(root)
    read_digests(source, cache, events.append)
    assert source.fingerprint() == open_imagefolder(root).fingerprint()
    return source, sum(event.total for event in events if event.kind == "finished")


def test_every_file_is_read_once(make_folder: MakeFolder, tmp_path: Path) -> None:
    root, cache = make_folder(), tmp_path / "cache"
    assert opened(root, cache)[1] == 10
    assert opened(root, cache)[1] == 0
    shutil.copy(root / "train" / "ant" / "0.jpg", root / "train" / "ant" / "9.jpg")
    assert opened(root, cache)[1] == 1
    (root / "train" / "bee" / "0.jpg").unlink()
    assert opened(root, cache)[1] == 0
    (kept,) = (cache / "digests").iterdir()
    kept.write_bytes(b"damaged")
    assert opened(root, cache)[1] == 10


def test_a_swap_of_equal_sizes_and_times_moves_the_fingerprint(make_folder: MakeFolder, tmp_path: Path) -> None:
    """Uncompressed images from one archive: same size, same time, in the place of the other."""
    root, cache = make_folder(), tmp_path / "cache"
    one, two = root / "train" / "ant" / "0.bmp", root / "train" / "bee" / "0.bmp"
    for path, value in ((one, b"a"), (two, b"b")):
        path.write_bytes(value * 1000)
        os.utime(path, (1000, 1000))
    before = opened(root, cache)[0].fingerprint()
    first, second = one.read_bytes(), two.read_bytes()
    for path, value in ((one, second), (two, first)):  # in place, so that the inodes stay
        path.write_bytes(value)
        os.utime(path, (1000, 1000))
    after, read = opened(root, cache)
    assert read == 2
    assert after.fingerprint() != before
    one.rename(root / "x")
    two.rename(one)
    (root / "x").rename(two)
    assert opened(root, cache)[0].fingerprint() == before


def test_a_file_that_changed_a_moment_ago_is_read_again(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "SETTLED_SECONDS", 3600.0)
    root, cache = make_folder(), tmp_path / "cache"
    assert opened(root, cache)[1] == opened(root, cache)[1] == 10


def test_an_interrupted_reading_goes_on(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache = make_folder(), tmp_path / "cache"

    class Stop(BaseException):
        pass

    def stop(event: Event) -> None:
        if event.kind == "step":
            raise Stop

    monkeypatch.setattr(content, "_REPORT_EVERY", 4)
    time.sleep(0.02)
    with pytest.raises(Stop):
        read_digests(open_imagefolder(root), cache, stop)
    assert opened(root, cache)[1] == 6


def test_every_file_is_read_again_on_request(make_folder: MakeFolder, tmp_path: Path) -> None:
    """One stored digest is wrong, as if the content had changed and nothing else."""
    root, cache = make_folder(), tmp_path / "cache"
    before, _ = opened(root, cache)
    (path,) = (cache / "digests").iterdir()
    tensors = {name: tensor.clone() for name, tensor in read_tensors(path)[0].items()}  # type: ignore[index]
    tensors["digests"][3] = 7
    write_tensors(path, tensors, {})
    trusted = open_imagefolder(root)
    read_digests(trusted, cache, lambda event: None)
    assert trusted.fingerprint() != before.fingerprint()
    events: list[Event] = []
    verified = open_imagefolder(root)
    read_digests(verified, cache, events.append, verify=True)
    assert verified.fingerprint() == before.fingerprint()
    assert [event.total for event in events if event.kind == "finished"] == [10]
    message = "1 of 10 files have another content than before, with the same size and times"
    assert [event.message for event in events if event.kind == "note"] == [message]
    assert opened(root, cache)[1] == 0  # the stored digest is right again


def test_many_small_files_are_read_once(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "KEPT_ABOVE_BYTES", 2**31)
    monkeypatch.setattr(content, "KEPT_ABOVE_FILES", 9)
    root, cache = make_folder(), tmp_path / "cache"
    assert [opened(root, cache)[1], opened(root, cache)[1]] == [10, 0]


def test_a_small_dataset_leaves_nothing_behind(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "KEPT_ABOVE_BYTES", 2**31)
    assert opened(make_folder(), tmp_path / "cache")[1] == 0
    assert not (tmp_path / "cache").exists()
