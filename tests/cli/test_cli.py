"""The command line as a person uses it: runs, tables, records, pictures, the cache; and what stays unloaded."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from conftest import FAST

if TYPE_CHECKING:
    from conftest import Finished, Shell


def records_in(shell: "Shell") -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((shell.results / "records").glob("*.json"))]


def copy_of(finished: "Finished", target: Path) -> "Shell":
    shutil.copytree(finished.shell.root, target, dirs_exist_ok=True)
    return type(finished.shell)(target)


def test_a_grid_prints_a_row_a_cell_and_writes_its_records(finished: "Finished") -> None:
    assert finished.first.rows[0].keys().isdisjoint(("W2² of features", "distill s"))
    table = finished.shell.run(*finished.grid, "--wide").rows
    assert [(row["method"], row["ipc"]) for row in table] == [
        ("wmdd", "1"),
        ("wmdd", "2"),
        ("random", "1"),
        ("random", "2"),
    ]
    actual = {(record["method"], str(record["ipc"])): record for record in records_in(finished.shell)}
    assert len(actual) == 4
    for row in table:
        record = actual[row["method"], row["ipc"]]
        assert row["top-1 (last epoch)"] == f"{record['metrics']['top1_last']:.2f}"
        assert row["W2² of features"] == f"{record['feature_transport_cost']:.2f}"
        assert (row["dataset"], row["recipe"]) == ("digits 8px", "smoke + 1 changed")
        assert (row["student"], row["protocol"]) == ("convnet-bn-d3", "fkd v1")
        assert row["n"].startswith("1 student")
        assert record["distilled_images"] == 10 * record["ipc"]
        assert len(record["metrics"]["per_class"]) == 10


def test_a_grid_whose_methods_have_other_default_protocols_names_them(shell: "Shell") -> None:
    grid = ("run", "--dataset", "digits", "--method", "dm,random", "--ipc", "1", "--recipe", "smoke", "--dry-run")
    note = (
        "methods are evaluated by their authors' protocols: dm: dsa, random: fkd; --evaluator fkd evaluates all by one"
    )
    outcome = shell(*grid)
    assert (outcome.code, outcome.errors) == (0, [note])
    assert [(row["protocol"], row["student"]) for row in outcome.rows] == [
        ("dsa", "convnet-d3"),
        ("fkd", "convnet-bn-d3"),
    ]
    by_one = shell(*grid, "--evaluator", "dsa")
    assert (by_one.code, by_one.errors) == (0, [])


def test_a_grid_says_which_cell_it_computes(finished: "Finished") -> None:
    cells = re.findall(
        r"^cell (\d) of 4: (\w+), digits, IPC (\d), .*; about \d+ \w+ left$", finished.first.err, re.MULTILINE
    )
    assert cells == [("1", "wmdd", "1"), ("2", "wmdd", "2"), ("3", "random", "1"), ("4", "random", "2")]


def test_the_summary_fits_80_columns(finished: "Finished", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outcome = finished.shell.run(*finished.grid)
    assert "cell 1" not in outcome.err
    table, _, _ = outcome.out.partition("records:")
    assert max(map(len, table.splitlines())) <= 80
    heading = " ".join(table.partition("\n\n")[0].split())
    # Measured columns follow if their values happen to be equal in all rows.
    assert heading.startswith("dataset digits 8px, student convnet-bn-d3, protocol fkd v1, recipe smoke + 1 changed")
    assert re.findall(r"^(\w+) +(\d) +\d+\.\d\d ", table, re.MULTILINE) == [
        (method, ipc) for method in ("wmdd", "random") for ipc in ("1", "2")
    ]


def test_a_run_leaves_a_preview_of_each_set(finished: "Finished") -> None:
    named = [line.split()[1] for line in finished.first.out.splitlines() if line.startswith("preview:")]
    assert len(set(named)) == 4
    for name in named:
        with Image.open(finished.shell.root / name) as picture:
            picture.load()
            assert (picture.format, min(picture.size) > 100) == ("PNG", True)
    assert not list(finished.shell.results.rglob("*.partial"))


def test_a_grid_of_two_methods_shares_one_teacher(finished: "Finished") -> None:
    assert len(list((finished.shell.cache / "teacher").iterdir())) == 1
    assert len(list((finished.shell.cache / "statistics").iterdir())) == 10
    assert len({record["teacher"]["digest"] for record in records_in(finished.shell)}) == 1


def test_progress_stays_off_stdout(finished: "Finished") -> None:
    assert "started" not in finished.first.out
    assert re.search(r"^teacher .*started", finished.first.err, re.MULTILINE)


def test_the_same_command_again_reads_the_cache(finished: "Finished") -> None:
    before = finished.shell.files("cache")
    again = finished.shell.run(*finished.grid)
    assert again.rows[0]["top-1 (last epoch)"] == finished.first.rows[0]["top-1 (last epoch)"]
    assert [{**row, "peak MB": ""} for row in again.rows] == [{**row, "peak MB": ""} for row in finished.first.rows]
    assert "started" not in again.err
    assert finished.shell.files("cache") == before


def test_forced_stages_are_computed_again_to_the_same_numbers(finished: "Finished", tmp_path: Path) -> None:
    shell = copy_of(finished, tmp_path)
    before = {record["name"]: record for record in records_in(shell)}
    outcome = shell.run("--method", "wmdd", "--dataset", "digits", "--ipc", "1", "--force", "distill")
    assert re.search(r"^teacher .*: cached", outcome.err, re.MULTILINE)
    assert re.search(r"^distill wmdd.*: started", outcome.err, re.MULTILINE)
    after = {record["name"]: record for record in records_in(shell)}
    assert after.keys() == before.keys()
    for name, record in after.items():
        assert record["distilled_digest"] == before[name]["distilled_digest"]
        assert record["metrics"] == before[name]["metrics"]


def test_the_full_dataset_has_no_ipc_and_no_teacher(shell: "Shell") -> None:
    outcome = shell.run("--method", "full", "--dataset", "digits", "--ipc", "5")
    (row,) = outcome.rows
    (record,) = records_in(shell)
    assert (row["method"], row["ipc"], row["protocol"]) == ("full", "all", "full-data v2")
    assert (record["ipc"], record["distilled_images"], record["teacher"]) == (None, 1437, {})
    assert not (shell.cache / "teacher").exists()


def test_seeds_and_repeats_are_counted(finished: "Finished", tmp_path: Path) -> None:
    shell = copy_of(finished, tmp_path)
    options = ("--method", "random", "--dataset", "digits", "--ipc", "2", "--results-dir", "several")
    outcome = shell.run(*options, "--seeds", "2", "--repeats", "3")
    (row,) = outcome.rows
    actual = [json.loads(path.read_text()) for path in (tmp_path / "several" / "records").iterdir()]
    assert row["n"] == "6 students on 3 sets"
    assert len({record["distilled_digest"] for record in actual}) == 3
    assert sorted((record["repeat"], record["student_seed"]) for record in actual) == [
        (repeat, seed) for repeat in range(3) for seed in range(2)
    ]
    students: dict[str, list[float]] = {}
    for record in actual:
        students.setdefault(record["distilled_digest"], []).append(record["metrics"]["top1_last"])
    top1 = torch.tensor([sum(values) / len(values) for values in students.values()], dtype=torch.float64)
    assert row["top-1 (last epoch)"] == f"{float(top1.mean()):.2f} ± {float(top1.std()):.2f}"


def test_two_students_stand_in_two_rows(finished: "Finished", tmp_path: Path) -> None:
    shell = copy_of(finished, tmp_path)
    students = ("--student", "convnet-bn-d3", "--student", "convnet-d2")
    outcome = shell("-q", "run", *FAST, "--method", "random", "--dataset", "digits", "--ipc", "1", *students)
    assert (outcome.code, outcome.errors) == (0, [])
    assert [row["student"] for row in outcome.rows] == ["convnet-bn-d3", "convnet-d2"]


# -- true processes -------------------------------------------------------------------------------------------


WITHOUT_POSIX = """
import builtins, os, sys
found = builtins.__import__
def without_posix(name, scope=None, *more):
    # Libraries have their own ways for such a system, so the modules are missing for ddbench and its plugins alone.
    posix = {"resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix"}
    if name in posix and (scope or {}).get("__name__", "").startswith("ddbench"):
        raise ModuleNotFoundError(name)
    return found(name, scope, *more)
builtins.__import__ = without_posix
uname = os.uname
def posix_uname():
    assert not sys._getframe(1).f_globals["__name__"].startswith("ddbench"), "os.uname"
    return uname()
os.uname = posix_uname
from ddbench.cli.main import main
run = "run --method random --evaluator hard --dataset digits --ipc 1 --recipe smoke --device cpu"
for command in ("list methods", run):
    sys.argv = ["ddbench", *command.split()]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


@pytest.mark.slow
def test_a_run_needs_no_module_of_posix_alone(shell: "Shell") -> None:
    command, environment = [sys.executable, "-c", WITHOUT_POSIX], {**os.environ, "DDBENCH_CACHE": str(shell.cache)}
    done = subprocess.run(command, cwd=shell.root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (record,) = records_in(shell)
    assert record["peak_memory"]["resident"] > 0
