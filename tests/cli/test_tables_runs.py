"""Tables that are run, on digits: numbers by hand from the records, failures, two processes, a plugin's own table."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ddbench
from ddbench.data import arrays
from ddbench.registry.source import _digest
from ddbench.results.text import frame_text

if TYPE_CHECKING:
    from conftest import Outcome, Shell

DOCS = Path(__file__).parents[2] / "docs" / "tables.md"
OPTIONS = (
    *("--dataset", "digits", "--recipe", "smoke", "--device", "cpu", "--precision", "fp32"),
    *("--arch", "convnet-bn-d1", "--image-size", "8", "--set", "teacher.batch_size=256"),
)
REGIMES = ("table", "regimes", *OPTIONS, "--methods", "random,kmeans,full", "--ipc", "1", "--seeds", "2")
RUN = (*REGIMES, "--run")


def rows(text: str) -> dict[str, dict[str, str]]:
    """The rows of a printed table with one block, by their first cell: columns are as wide as the rule says."""
    lines = text.splitlines()
    rule = next(number for number, line in enumerate(lines) if re.fullmatch(r"-+(  -+)+", line))
    spans = [match.span() for match in re.finditer("-+", lines[rule])]
    parts = [[line[start:end].strip() for start, end in spans] for line in (lines[rule - 1], *lines[rule + 1 :])]
    return {part[0]: dict(zip(parts[0], part, strict=True)) for part in parts[1:]}


def records_in(shell: Shell) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((shell.results / "records").glob("*.json"))]


def ok(outcome: Outcome) -> Outcome:
    assert outcome.code == 0, outcome.err
    return outcome


@pytest.fixture
def plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install_plugin: Callable[[Path, str, str], None]
) -> Callable[[str, str], None]:
    """Installs a plugin of one module, for this process."""
    folder = tmp_path / "site"

    def add(name: str, source: str) -> None:
        install_plugin(folder, name, source)
        monkeypatch.syspath_prepend(str(folder))

    return add


@pytest.fixture(scope="module")
def regimes(tmp_path_factory: pytest.TempPathFactory, shell_in: Callable[[Path], Shell]) -> tuple[Shell, Outcome]:
    """A shell in which the table of regimes was made, and what it printed."""
    shell = shell_in(tmp_path_factory.mktemp("regimes"))
    return shell, ok(shell(*RUN))


def copy_of(shell: Shell, folder: Path) -> Shell:
    shutil.copytree(shell.root, folder, dirs_exist_ok=True)
    return type(shell)(folder)


# -- numbers --------------------------------------------------------------------------------------------------


def test_means_ior_and_hlr_are_those_of_the_records(regimes: tuple[Shell, Outcome]) -> None:
    shell, printed = regimes
    top1: dict[tuple[str, str], list[float]] = {}
    for record in records_in(shell):
        top1.setdefault((record["method"], record["evaluator"]), []).append(record["metrics"]["top1_last"])
    assert {len(values) for values in top1.values()} == {2}
    assert len(top1) == 7
    table = rows(printed.out)
    assert list(table) == ["random", "kmeans", "full"]
    full = fmean(top1["full", "full-data"])
    for (method, regime), values in top1.items():
        size = "all" if method == "full" else "IPC 1"
        cells = table[method]
        assert cells[f"{size} {regime} top-1"] == f"{fmean(values):.2f} ± {stdev(values):.2f} (2 on 1 set)"
        if method != "full":
            assert cells[f"IPC 1 {regime} IOR"] == f"{fmean(values) - fmean(top1['random', regime]):.2f}"
        if regime == "hard":
            assert cells["IPC 1 hard HLR"] == f"{full - fmean(values):.2f}"
    assert table["full"]["IPC 1 fkd top-1"] == table["full"]["IPC 1 hard HLR"] == ""
    # What is the same for all students of a cell is one number.
    assert printed.out.splitlines()[0] == (
        "digits, 10 classes, 8 px, recipe smoke --set teacher.batch_size=256, teacher convnet-bn-d1, cpu fp32"
    )


def test_each_cell_that_runs_is_announced_with_the_time_left(regimes: tuple[Shell, Outcome]) -> None:
    _, printed = regimes
    cells = re.findall(r"^cell (\d+) of 14: .* seed [01]; about [\d.]+ \w+ left$", printed.err, re.MULTILINE)
    assert cells == [str(number) for number in range(1, 15)]


def test_records_alone_give_the_same_numbers_without_data(
    regimes: tuple[Shell, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell, _ = regimes
    told = json.loads(ok(shell(*RUN, "--format", "json")).out)
    monkeypatch.chdir(tmp_path)
    opened = arrays._digits.cache_info()
    frame = ddbench.table("regimes", results_dir=str(shell.results))
    assert arrays._digits.cache_info() == opened
    actual = json.loads(frame_text(frame[frame["state"] == "measured"], "json"))
    assert len(actual) == 14
    assert {(line["row"], line["evaluator"], line["student_seed"]): line["top1"] for line in actual} == {
        (line["row"], line["evaluator"], line["student_seed"]): line["top1"] for line in told
    }
    for name in ("setting", "recipe"):
        assert {line[name] for line in actual} == {line[name] for line in told}
    assert {line["ior"] for line in actual} == {line["ior"] for line in told}


def test_what_is_measured_is_not_computed_again(regimes: tuple[Shell, Outcome], tmp_path: Path) -> None:
    shell, printed = copy_of(regimes[0], tmp_path), regimes[1]
    shutil.rmtree(shell.cache)  # the records are enough
    before = shell.files("results")
    again = ok(shell(*RUN))
    assert again.out == printed.out
    assert shell.files("results") == before
    assert not (shell.cache / "teacher").exists()
    assert "evaluate" not in again.err


def test_without_run_nothing_is_computed_and_the_missing_cells_are_counted(
    regimes: tuple[Shell, Outcome], tmp_path: Path
) -> None:
    shell = copy_of(regimes[0], tmp_path)
    lost = next((shell.results / "records").glob("kmeans-*.json"))
    lost.unlink()
    before = shell.files()
    outcome = ok(shell(*REGIMES, "--methods", "herding"))
    table = rows(outcome.out)
    assert table["herding"]["IPC 1 fkd top-1"] == table["herding"]["IPC 1 hard top-1"] == "never run"
    assert outcome.errors == ["3 cells without a number; --run computes them, --dry-run estimates the time"]
    assert shell.files() == before
    # With --run, the lost record is there again.
    assert ok(shell(*RUN)).out == regimes[1].out
    assert lost.is_file()
    assert shell.files("cache") == {name: content for name, content in before.items() if name.startswith("cache")}
    assert ok(shell(*REGIMES)).errors == []


LONG = ("table", "comparison", *OPTIONS, "--methods", "random", "--ipc", "1", "--set", "evaluator.epochs=10000000")


def test_more_than_an_hour_of_work_does_not_start_without_yes(shell: Shell) -> None:
    shown = ok(shell(*LONG, "--dry-run"))
    assert re.search(r"^in all about \d+\.\d h on this device$", shown.out, re.MULTILINE)
    outcome = shell(*LONG, "--run")
    assert outcome.code == 2
    assert re.fullmatch(
        r"ddbench: the missing cells take about \d+\.\d h on this device: --yes starts them, --dry-run lists them",
        outcome.errors[-1],
    )
    assert not list(shell.files("cache/teacher"))
    if find_spec("ray"):  # the limit holds for every executor
        outcome = shell(*LONG, "--run", "--executor", "ray")
        outcome.refused("the missing cells take about ", " h in one process on this machine: --yes starts them")


@pytest.mark.slow
def test_more_than_an_hour_of_work_starts_with_yes(shell: Shell) -> None:
    """The limit is long enough for the estimate on a busy machine."""
    started = shell(*LONG, "--run", "--yes", "--time-limit", "0.3")
    assert any(re.fullmatch(r"this will take about \d+\.\d h on this device", line) for line in started.errors)
    assert started.code == 124


def test_iterations_of_more_than_an_hour_are_not_measured_without_yes(shell: Shell) -> None:
    """The estimate counts so many images, and does not look how many a class has."""
    long = ("table", "efficiency", *OPTIONS, "--methods", "random,dm", "--ipc", "1", "--set", "dm.real_batch=100000000")
    shell(*long, "--run").refused("the missing cells take about ", " h on this device: --yes starts them")
    assert not shell.results.exists()
    assert not shell.files("cache/teacher")


def test_dry_run_lists_every_cell_and_leaves_no_file(regimes: tuple[Shell, Outcome], tmp_path: Path) -> None:
    shell = copy_of(regimes[0], tmp_path)
    before = shell.files()
    told = rows_of_plan(ok(shell(*REGIMES, "--methods", "herding", "--dry-run")).out)
    assert {state for (name, *_), state in told.items() if name == "herding"} == {"to do"}
    assert {state for (name, *_), state in told.items() if name != "herding"} == {"measured"}
    assert len(told) == 10
    told = rows_of_plan(ok(shell(*REGIMES[:-1], "3", "--dry-run")).out)
    assert set(told.values()) == {"2 of 3 measured"}
    assert shell.files() == before


def rows_of_plan(text: str) -> dict[tuple[str, str], str]:
    lines = [re.split(" {2,}", line) for line in text.split("\n\n")[0].splitlines()[2:]]
    return {(line[0], line[4]): line[5] for line in lines}


# -- what fails -----------------------------------------------------------------------------------------------

BRITTLE = """
    from ddbench.api import hookimpl
    from ddbench.api import Distiller

    class Brittle(Distiller, frozen=True):
        name = "brittle"
        version = "1"
        needs_teacher = False
        default_evaluator = "hard"

        def distill(self, task, unit):
            raise RuntimeError("two\\nlines")

    @hookimpl
    def ddbench_distillers():
        return [Brittle]
"""


def test_a_cell_that_fails_says_why_and_the_others_go_on(shell: Shell, plugin: Callable[[str, str], None]) -> None:
    plugin("ddtest_brittle", BRITTLE)
    command = ("table", "comparison", *OPTIONS, "--methods", "brittle,random,herding", "--ipc", "1", "--ipc", "2000")
    outcome = shell(*command, "--run")
    assert outcome.code == 1
    table = rows(outcome.out)
    notes = dict(re.findall(r"^\[(\d)\] (.*)$", outcome.out, re.MULTILINE))
    assert table["brittle"]["IPC 1"] == table["brittle"]["IPC 2000"] == "failed [1]"
    assert "RuntimeError: two lines" in notes["1"]
    assert table["random"]["IPC 2000"] == table["herding"]["IPC 2000"] == "failed [2]"
    assert notes["2"] == "--ipc 2000 is more than the 142 training images of class '0'"
    actual = {record["method"]: record["metrics"]["top1_last"] for record in records_in(shell)}
    assert {name: table[name]["IPC 1"] for name in actual} == {
        name: f"{top1:.2f} (1 set)" for name, top1 in actual.items()
    }
    assert actual.keys() == {"random", "herding"}
    plan = ok(shell(*command, "--dry-run")).out
    assert plan.count("impossible: --ipc 2000 is more than") == 2
    # Refused throughout, for one reason, it is bad input.
    outcome = shell("table", "comparison", *OPTIONS, "--methods", "random,herding", "--ipc", "2000", "--run")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.errors[-1] == f"ddbench: random, digits, IPC 2000: {notes['2']} (the same for 1 other cell)"


PLAIN = """
    import torch
    from ddbench.api import Distiller, hookimpl

    class Plain(Distiller, frozen=True):
        name = "plain"
        version = "1"
        needs_teacher = False
        default_evaluator = "hard"

        def distill(self, task, unit):
            return torch.full((len(unit.slots), 3, 8, 8), 0.5)

    @hookimpl
    def ddbench_distillers():
        return [Plain]
"""


def test_a_record_of_an_edited_method_is_made_again(shell: Shell, plugin: Callable[[str, str], None]) -> None:
    plugin("ddtest_plain", PLAIN)
    command = ("table", "comparison", *OPTIONS, "--methods", "plain", "--ipc", "1", "--run")
    ok(shell(*command))
    assert not any(line.startswith("cell 1 of 1") for line in ok(shell(*command)).errors)
    (module,) = shell.root.glob("site/*.py")
    module.write_text(module.read_text().replace("0.5", "0.7"))
    _digest.cache_clear()  # as in another process
    line = "method 'plain' of ddtest_plain, version 1: its source has changed since its cached artifacts were made"
    assert set(rows_of_plan(ok(shell(*command, "--dry-run")).out).values()) == {"to do"}
    again = ok(shell(*command))
    assert again.err.count(line) == 1
    assert sum(line.startswith("cell 1 of 1") for line in again.errors) == 1
    again = ok(shell(*command))
    assert not [text for text in again.errors if text.startswith(("cell", "method"))]


# -- two at once ----------------------------------------------------------------------------------------------

WATCHER = """
    import os
    from ddbench.api import hookimpl

    @hookimpl
    def ddbench_event(event):
        if event.kind in ("started", "resumed"):
            with open(os.environ["DDTEST_LOG"], "a") as log:
                log.write(f"{event.stage} {event.unit}\\n")
"""


@pytest.mark.slow(15)
def test_two_processes_make_one_table_together(
    tmp_path: Path, install_plugin: Callable[[Path, str, str], None]
) -> None:
    install_plugin(tmp_path / "site", "ddtest_watcher", WATCHER)
    places = ("--cache-dir", str(tmp_path / "cache"), "--results-dir", str(tmp_path / "results"))
    command = (
        "table",
        "comparison",
        *OPTIONS,
        "--methods",
        "random,kmeans",
        "--ipc",
        "1",
        "--seeds",
        "2",
        *places,
        "--run",
    )
    log = tmp_path / "log"
    own = {"PYTHONPATH": str(tmp_path / "site"), "DDTEST_LOG": str(log), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "ddbench", *command],
            env={**os.environ, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    messages = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], messages
    assert messages[0][0] == messages[1][0]
    started = log.read_text().splitlines()
    stages = ("teacher", "distill", "evaluate")
    count = {stage: [line for line in started if line.startswith(stage)] for stage in stages}
    assert (len(count["teacher"]), len(count["evaluate"])) == (1, 4)
    assert len(count["distill"]) == len(set(count["distill"])) == 11  # k-means goes class by class
    assert len(list((tmp_path / "results" / "records").glob("*.json"))) == 4
    assert not list(tmp_path.rglob("*.partial"))


# -- a table of a plugin --------------------------------------------------------------------------------------


def test_a_table_of_ones_own_is_one_small_file(shell: Shell, plugin: Callable[[str, str], None]) -> None:
    (source,) = [code for code in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL) if "hookimpl" in code]
    assert len(source.splitlines()) < 80
    plugin("ddtest_temperature", source)
    outcome = ok(shell("table", "temperature", *OPTIONS, "--methods", "random", "--ipc", "1", "--seeds", "2", "--run"))
    by_temperature: dict[float, list[dict[str, Any]]] = {}
    for record in records_in(shell):
        settings = record["configuration"]["evaluator_settings"]
        by_temperature.setdefault(settings["temperature"], []).append(record)
    assert by_temperature.keys() == {1, 4, 20}
    table = rows(outcome.out)
    for temperature, actual in by_temperature.items():
        top1 = [record["metrics"]["top1_last"] for record in actual]
        cells = table[f"random, T = {temperature:g}"]
        assert cells["IPC 1 top-1"] == f"{fmean(top1):.2f} ± {stdev(top1):.2f} (2 on 1 set)"
        gaps = [record["teacher"]["top1"] - record["metrics"]["top1_last"] for record in actual]
        assert cells["IPC 1 below the teacher"].startswith(f"{fmean(gaps):.2f} ±")
    assert torch.get_num_threads() == actual[0]["device"]["threads"]
    # It is read from records like any other.
    alone = ok(shell("table", "temperature", "--ipc", "1", "--data-dir", "nowhere", "--methods", "random"))
    digits = alone.out[alone.out.index("digits, ") :]
    assert rows(digits.split("\n\n")[0]) == table


def test_what_the_page_says_of_columns_is_what_there_is() -> None:
    from ddbench.tables import comparing, efficiency
    from ddbench.tables import rows as rows_module

    page = DOCS.read_text()
    for name in (*rows_module.FRAME_COLUMNS, *efficiency.COST_COLUMNS, *comparing.SCORES, "hours", "value"):
        assert f"`{name}`" in page, name
    for spec in comparing.ddbench_tables():
        assert f"| `{spec.name}` |" in page
