"""`ddbench run --dry-run`: the state of every stage of every cell, and where the settings come from."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from conftest import Finished, Shell


def test_dry_run_tells_what_is_cached_and_computes_nothing(finished: Finished) -> None:
    before = finished.shell.files()
    options = ("--method", "wmdd", "--dataset", "digits", "--ipc", "2", "--ipc", "3", "--seeds", "2", "--dry-run")
    outcome = finished.shell.run(*options)
    plan = outcome.rows
    stages = ("data", "teacher", "statistics", "distill", "evaluate", "measure")
    assert [tuple(row[stage] for stage in stages) for row in plan] == [
        6 * ("cached",),
        (*4 * ("cached",), "to do", "cached"),
        (*3 * ("cached",), *3 * ("to do",)),
        (*3 * ("cached",), "shared", "to do", "shared"),
    ]
    assert [(row["ipc"], row["seed"], row["takes about"] != "") for row in plan] == [
        ("2", "0", False),
        ("2", "1", True),
        ("3", "0", True),
        ("3", "1", True),
    ]
    assert re.search(r"^4 cells: in all about \d+ \w+ on this device$", outcome.out, re.MULTILINE)
    detail = r"^mostly \w+ \(\d+ \w+\); about [\d.]+ [MG]B of memory, [\d.]+ [kM]B of disk$"
    assert re.search(detail, outcome.out, re.MULTILINE)
    assert finished.shell.files() == before


def test_dry_run_says_where_each_changed_value_comes_from(finished: Finished) -> None:
    more = ("--arch", "convnet-d3", "--set", "wmdd.bn_weight=0", "--set", "evaluator.steps=9")
    outcome = finished.shell.run(*finished.grid, *more, "--dry-run")
    _, _, text = outcome.out.partition("by source:\n")
    paragraphs = re.split(r"^  (?=\S)", text.partition("\n\n")[0], flags=re.MULTILINE)
    sources = {source: " ".join(values.split()) for source, _, values in (part.partition(": ") for part in paragraphs)}
    assert {"recipe smoke", "--set", "--arch", "--device", "--precision"} <= sources.keys()
    assert "wmdd.steps=20" in sources["recipe smoke"]
    assert "teacher.arch" not in sources["recipe smoke"]
    assert sources["--arch"] == "teacher.arch=convnet-d3"
    assert sources["--set"] == "teacher.batch_size=256, wmdd.bn_weight=0.0, evaluator.steps=9"
    assert "evaluator.epochs=null" in sources["derived"]


def test_dry_run_names_the_cells_of_each_value_and_settings_as_set_takes_them(shell: Shell) -> None:
    """The method and the protocol rded both have a factor; the batches of the protocol depend on the IPC."""
    grid = ("--method", "rded", "--dataset", "digits", "--ipc", "1,10", "--recipe", "quick", "--dry-run")
    (own,) = re.findall(r"recipe quick: (.*) derived: ", " ".join(shell(*("run", *grid)).out.split()))
    assert {"rded.factor=1", "evaluator.factor=1"} <= set(own.split(", "))
    assert "evaluator.batch_size=10 (IPC 1) or 50 (IPC 10), " in own
    assert "evaluator.epochs" not in own  # 300, the default
    both = shell("run", *grid, "--evaluator", "hard,rded", "--set", "evaluator.epochs=7")
    assert "evaluator.batch_size=10 (IPC 1 rded) or 50 (IPC 10 rded), " in " ".join(both.out.split())
    assert "  --set: evaluator.epochs=7\n" in both.out


def test_dry_run_of_a_large_grid_is_a_line_a_cell(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outcome = finished.shell.run(*finished.grid, "--evaluator", "fkd,hard", "--seeds", "6", "--dry-run")
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(outcome.rows) == 48
    assert len(lines) < 48 + 30


def test_verbose_dry_run_prints_the_configuration_that_the_record_holds(finished: Finished) -> None:
    outcome = finished.shell.run(*finished.grid, "--dry-run", "--verbose")
    paths = (finished.shell.results / "records").glob("*.json")
    configurations = [json.loads(path.read_text())["configuration"] for path in paths]
    printed = list(yaml.safe_load_all(outcome.out))
    assert len(printed) == 4
    assert all(configuration in printed for configuration in configurations)


def test_dry_run_without_data_gives_cells_and_settings(shell: Shell) -> None:
    outcome = shell.run("--method", "random", "--dataset", "cifar10", "--dataset", "digits", "--ipc", "1", "--dry-run")
    cifar, digits = outcome.rows
    assert (cifar["dataset"], cifar["distill"], cifar["takes about"]) == ("cifar10", "", "")
    assert (digits["dataset"], digits["distill"]) == ("digits", "to do")
    assert "states and times are not known: cifar10: " in outcome.out
    assert "recipe smoke: " in outcome.out


def test_dry_run_in_a_fresh_place_writes_nothing_at_all(shell: Shell) -> None:
    outcome = shell.run("--method", "wmdd", "--dataset", "digits", "--ipc", "1", "--dry-run")
    (row,) = outcome.rows
    assert {row[stage] for stage in ("data", "teacher", "statistics", "distill", "evaluate", "measure")} == {"to do"}
    assert list(shell.root.iterdir()) == []
