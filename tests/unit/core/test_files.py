"""Files that are there whole or not at all: beside other writers of the same, and after killed ones."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import torch

from ddbench.core import files
from ddbench.core.errors import DDBenchError
from ddbench.core.files import atomic_write, require_utf8
from ddbench.storage.cache import Cache


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def fail(file: Path) -> None:
        file.write_text("half")
        raise ZeroDivisionError

    path = tmp_path / "deep" / "file"
    with atomic_write(path) as partial:
        partial.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as partial:
        fail(partial)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder"

    def fail(folder: Path) -> None:
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "file").write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), atomic_write(path) as partial:
        fail(partial)
    assert not list(tmp_path.iterdir())
    with atomic_write(path) as partial:
        partial.mkdir()
        (partial / "file").write_text("all")
    assert [entry.relative_to(path) for entry in path.rglob("*")] == [Path("file")]
    assert list(tmp_path.iterdir()) == [path]


def test_writers_of_the_same_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file[1]*"
    with atomic_write(path) as slow:
        slow.write_text("slow")
        with atomic_write(path) as quick:
            quick.write_text("quick")
        assert path.read_text() == "quick"
    assert path.read_text() == "slow"
    assert list(tmp_path.iterdir()) == [path]


def partial_of(path: Path, *, process: int, host: str | None = None) -> Path:
    """The folder of a half-written file as a process with this number on this host, or on another, has it."""
    with atomic_write(path) as own:
        own.touch()
        here = own.parent.name
    path.unlink()
    name, count = re.subn(r"\.([0-9a-f]{8})-\d+-", lambda match: f".{host or match[1]}-{process}-", here)
    assert count == 1
    room = path.with_name(name)
    room.mkdir()
    (room / path.name).write_text("half")
    return room


@pytest.fixture
def dead() -> int:
    """The number of a process that was killed."""
    process = subprocess.Popen(["sleep", "60"])
    process.kill()
    process.wait()
    return process.pid


def silent(room: Path) -> Path:
    """Nothing was written there for more than a day."""
    then = time.time() - files.ABANDONED_AFTER - 60
    for entry in (*room.iterdir(), room):
        os.utime(entry, (then, then))
    return room


def test_what_is_left_of_dead_writers_goes_and_what_is_being_written_stays(tmp_path: Path, dead: int) -> None:
    path = tmp_path / "file"
    elsewhere = "01234567"  # the number says nothing of another host's processes
    left = [
        partial_of(path, process=dead),
        silent(partial_of(path, process=dead, host=elsewhere)),
        silent(partial_of(path, process=os.getpid(), host=elsewhere)),
    ]
    (left[0] / "inner" / "inner").mkdir(parents=True)  # a folder was being made
    written = silent(partial_of(path, process=dead, host=elsewhere))
    (written / path.name).touch()
    living = [
        written,
        partial_of(path, process=os.getppid()),
        partial_of(path, process=dead, host=elsewhere),
        partial_of(tmp_path / "file2", process=dead),
        partial_of(tmp_path / "a file", process=dead),
    ]
    with atomic_write(path) as partial:
        partial.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([path, *living])


def test_a_folder_that_a_killed_writer_could_not_remove_goes_when_the_artifact_is_read(
    tmp_path: Path, dead: int
) -> None:
    path = Cache(tmp_path).get("teacher", {}, lambda checkpoint: ({}, {})).path
    room = partial_of(tmp_path / "x", process=dead)
    (room / "x").unlink()
    room.rename(path.with_name(room.name.replace(".x.", f".{path.name}.")))
    Cache(tmp_path).get("teacher", {}, lambda checkpoint: ({}, {}))
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["café", "cafe\u0301", "猫", "a b"])
def test_a_path_of_utf8_is_accepted(name: str) -> None:
    require_utf8(Path("/", name, "x"), "folder")


@pytest.mark.parametrize("name", [b"caf\xe9", b"it's \\ \xe9", b"\xff\xfe"])
def test_a_path_that_is_not_utf8_is_refused_with_a_command_that_renames_it(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name) / "inside"
    path.mkdir(parents=True)
    with pytest.raises(DDBenchError, match=r"^the thing .*/inside has a name that is not UTF-8; rename it: ") as caught:
        require_utf8(path, "thing")
    command = str(caught.value).partition("rename it: ")[2].partition(", or all at once")[0]
    subprocess.run(["bash", "-c", command], check=True)
    assert (tmp_path / name.decode("latin-1") / "inside").is_dir()


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = Cache(tmp_path).get("teacher", {}, lambda checkpoint: ({"x": torch.ones(3)}, {})).path
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_cache_prune_takes_what_dead_writers_left_and_nothing_that_is_being_written(tmp_path: Path, dead: int) -> None:
    path = tmp_path / "teacher" / f"{'0123' * 8}.safetensors"
    path.parent.mkdir()
    living, left = partial_of(path, process=os.getppid()), partial_of(path, process=dead)
    assert Cache(tmp_path).prune(frozenset(), older_than=1000) == (1, 4)
    assert (left.exists(), living.exists()) == (False, True)
    assert Cache(tmp_path).prune(frozenset(), older_than=0) == (0, 0)
