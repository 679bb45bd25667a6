"""Caches, results and disks that refuse, and records and sets that are not there: one line, exit code 2."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Finished, Shell

FAST = ("--recipe", "smoke", "--device", "cpu", "--precision", "fp32")
DIGITS = ("run", "--dataset", "digits", *FAST)
WMDD = (*DIGITS, "--method", "wmdd", "--ipc", "1")


# -- disks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_cache_that_cannot_be_written(shell: "Shell", below: str) -> None:
    shell.cache.write_text("a file")
    outcome = shell(*WMDD, "--cache-dir", shell.cache / below)
    outcome.refused(f"cannot write to {shell.cache / below}")
    assert shell.cache.read_text() == "a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_cache(shell: "Shell") -> None:
    shell.cache.mkdir(mode=0o500)
    shell(*WMDD).refused(f"cannot write to {shell.cache}", "Permission denied")


GRID = (*DIGITS, "--method", "random,kmeans", "--ipc", "1", "--ipc", "2", "--image-size", "8")


def test_a_fault_of_the_cache_is_reported_once_for_all_cells(shell: "Shell") -> None:
    """Each cell needs another file of the same folder, which cannot be written. On Ray: tests/faults."""
    shell.cache.mkdir()
    (shell.cache / "distill").write_text("a file")
    grid = (*GRID, "--set", "teacher.batch_size=256")
    outcome = shell(*grid)
    outcome.refused("every cell failed: random, digits, IPC 1, ", "; kmeans, digits, IPC 2, ")
    (line,) = [line for line in outcome.errors if f"cannot write to {shell.cache / 'distill'}" in line]
    assert line.startswith("failed: random, digits, IPC 1, ")
    # In a table, all cells have the same note.
    outcome = shell("table", "comparison", *grid[1:], "--run")
    assert outcome.code == 1
    assert outcome.out.count(" failed [1]") == 4
    assert outcome.out.count("Not a directory") == outcome.err.count("Not a directory") == 1


@pytest.mark.parametrize("place", ["results", "results/records"])
def test_results_that_cannot_be_written_show_before_anything_is_trained(shell: "Shell", place: str) -> None:
    path = shell.root / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("a file")
    shell(*WMDD).refused("results")
    assert shell.files("cache") == {}


def test_a_preview_that_cannot_be_written(finished: "Finished", tmp_path: Path) -> None:
    """It costs neither the record nor the cells after it."""
    (tmp_path / "runs").write_text("a file")
    shell = finished.shell
    grid = ("--method", "wmdd", "--dataset", "digits", "--ipc", "1", "--ipc", "2")
    outcome = shell.run(*grid, "--results-dir", tmp_path)
    assert f"could not be drawn: cannot write to {tmp_path / 'runs'}" in outcome.err
    assert "preview:" not in outcome.out
    assert len(list((tmp_path / "records").iterdir())) == 2


@pytest.mark.slow
def test_a_file_that_may_not_grow(shell: "Shell") -> None:
    """Writes end short in the middle of a file, as under a quota; Python ignores the signal and sees EFBIG."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        outcome = shell(*WMDD)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    outcome.refused(f"cannot write to {shell.cache}", "File too large")
    assert not list(shell.cache.rglob("*.partial"))
    assert shell(*WMDD, "--set", "teacher.batch_size=256").code == 0


def can_mount() -> bool:
    tools = [shutil.which(name) for name in ("unshare", "mount")]
    return all(tools) and subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="this person may not mount a small disk")
def test_a_full_disk(shell: "Shell") -> None:
    """A real one of 512 kB, in a mount namespace of its own."""
    disk = shell.root / "disk"
    disk.mkdir()
    command = [sys.executable, "-m", "ddbench", *WMDD, "--cache-dir", str(disk), "--set", "teacher.batch_size=256"]
    inside = f'mount -t tmpfs -o size=512k tmpfs "{disk}" && "$@"; code=$?; find "{disk}" -name "*.partial"; exit $code'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", inside, "sh", *command], cwd=shell.root, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ddbench: the disk is full: ")
    assert str(disk) in last
    assert not [name for name in shell.files("results") if name.endswith(".json")]


# -- records and exports --------------------------------------------------------------------------------------


def test_an_unknown_record(finished: "Finished") -> None:
    name = next((finished.shell.results / "records").iterdir()).stem
    wrong = name.replace("ipc", "ipcc")
    finished.shell("show", wrong).refused(f"no record '{wrong}'", f"did you mean '{name}'?")


def test_an_ambiguous_record(finished: "Finished") -> None:
    finished.shell("show", "wmdd").refused("2 records begin with 'wmdd'")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"name": "x"}', "\x00"])
def test_a_damaged_record(shell: "Shell", content: str) -> None:
    folder = shell.results / "records"
    folder.mkdir(parents=True)
    (folder / "x.json").write_text(content)
    shell("show", "x").refused("x.json is not a record")


def test_an_export_writes_over_nothing(finished: "Finished", tmp_path: Path) -> None:
    name = next((finished.shell.results / "records").glob("wmdd*")).stem
    (tmp_path / "mine.txt").write_text("mine")
    finished.shell("export", name, "--output", tmp_path).refused("is not an empty folder")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_an_export_of_a_pruned_set(finished: "Finished", tmp_path: Path) -> None:
    name = next((finished.shell.results / "records").glob("wmdd*")).stem
    outcome = finished.shell("export", name, "--output", tmp_path / "x", "--cache-dir", tmp_path / "empty")
    outcome.refused(name, "no longer in the cache")
    assert not (tmp_path / "x").exists()
