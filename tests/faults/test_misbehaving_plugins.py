"""Observers, tables, datasets, recipes and imports that misbehave: named with their distribution, and left out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pytest
import torch

from ddbench.api.context import DistillTask
from ddbench.api.dataset import DatasetInfo, DatasetSpec, Source
from ddbench.api.distiller import Distiller
from ddbench.api.hookspecs import hookimpl
from ddbench.api.table import Cell, TableQuery, TableSpec
from ddbench.api.units import Unit
from ddbench.core.events import Event
from ddbench.data.source import ArraySplit
from ddbench.registry.registry import PluginRegistry
from ddbench.tables.context import TableContext

if TYPE_CHECKING:
    import pandas as pd

    from conftest import BadPlugin, Shell


class Weird(BaseException):
    """No Exception: what catches those lets it through."""


# -- observers, tables, datasets ----------------------------------------------------------------------------


def test_observers_can_neither_stop_nor_change_a_run(bad_plugin: BadPlugin, shell: Shell) -> None:
    class Fails:
        @hookimpl
        def ddbench_event(self, event: Event) -> None:
            sys.exit()

    class Meddles:
        @hookimpl
        def ddbench_event(self, event: Event) -> None:
            print("look at me")
            torch.manual_seed(event.step)
            torch.set_default_dtype(torch.float64)

    words = ("run", "--method", "random", *bad_plugin.fast, "--evaluator", "hard")
    words += ("--student", "mobilenet_v2", "--set", "evaluator.epochs=2")  # it drops out
    plain = bad_plugin.run(shell, PluginRegistry(), *words, "--results-dir", "plain")
    registry = PluginRegistry()
    registry.register(Fails(), "ddbench-exits")
    registry.register(Meddles(), "ddbench-meddles")
    outcome = bad_plugin.run(shell, registry, *words, "--results-dir", "watched", "--force", "data")
    assert (plain.code, outcome.code) == (0, 0), outcome.err
    assert "look at me" not in outcome.out
    for text in (
        "observer of ddbench-exits failed and is not called again: SystemExit",
        "observer of ddbench-meddles changed torch's global generator, torch's default dtype: restored",
        "observer of ddbench-meddles printed to stdout, which is for results: printed to stderr",
    ):
        assert sum(text in line for line in outcome.errors) == 1, outcome.err
    text = (shell.root / "watched" / "failures" / "observer-ddbench-exits.txt").read_text()
    assert "in ddbench_event\n    sys.exit()" in text
    assert "traceback: watched/failures/observer-ddbench-exits.txt)" in outcome.err
    records = [json.loads(next((shell.root / name / "records").iterdir()).read_text()) for name in ("plain", "watched")]
    for name in ("metrics", "distilled_digest"):
        assert records[0][name] == records[1][name]


def table(name: str, **parts: Any) -> TableSpec:
    def cells(wanted: TableQuery) -> Iterable[Cell]:
        return [Cell("random", "random", dataset, 1, "convnet-d2", "hard") for dataset in wanted.datasets]

    return TableSpec(name, "misbehaves.", **{"cells": cells, **parts})


def late(wanted: TableQuery) -> Iterator[Cell]:
    yield from ()
    raise ZeroDivisionError("late")


def filling(spec: TableSpec, cells: list[Cell], desk: TableContext) -> pd.DataFrame:
    raise Weird("x")


def adding(frame: pd.DataFrame, every: pd.DataFrame) -> pd.DataFrame:
    raise Weird("no column")


TABLES = {
    "cells": (table("bad-cells", cells=lambda wanted: sys.exit(0)), "SystemExit: 0"),
    "late": (table("bad-late", cells=late), "ZeroDivisionError: late"),
    "fill": (table("bad-fill", fill=filling), "Weird: x"),
    "finish": (table("bad-finish", finish=adding), "Weird: no column"),
    "returned": (table("bad-value", finish=lambda frame, every: None), "finish returns None, not a DataFrame"),
    "metrics": (table("bad-metric", metrics={"top1": "Top"}), "metrics has 'Top' as 'top1', not a Metric"),
    "layout": (table("bad-size", finish=lambda frame, every: frame.assign(image_size="8 px")), "ValueError"),
}


def test_a_table_can_neither_write_to_stdout_nor_change_the_global_state(bad_plugin: BadPlugin, shell: Shell) -> None:
    def finish(frame: pd.DataFrame, every: pd.DataFrame) -> pd.DataFrame:
        print("look at me")
        torch.manual_seed(1)
        return frame

    registry = bad_plugin.registry(tables=[table("loud", finish=finish)])
    before = torch.get_rng_state()
    outcome = bad_plugin.run(shell, registry, "table", "loud", "--dataset", "digits", "--ipc", "1", "--format", "json")
    assert outcome.code == 0, outcome.err
    assert [row["state"] for row in json.loads(outcome.out)] == ["never run"]
    assert "look at me" in outcome.err
    assert f"table 'loud' of {bad_plugin.name} changed torch's global generator: restored" in outcome.err
    assert torch.equal(before, torch.get_rng_state())


def test_what_fails_before_the_first_cell_leaves_a_traceback_too(bad_plugin: BadPlugin, shell: Shell) -> None:
    class Unsure(Distiller, frozen=True):
        name, version, needs_teacher, default_evaluator = "unsure", "1", False, "hard"

        def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
            raise ZeroDivisionError("cannot say")

        def distill(self, task: DistillTask, unit: Unit) -> torch.Tensor:
            raise NotImplementedError

    registry = bad_plugin.registry(distillers=[Unsure])
    options = ("--method", "unsure", "--dataset", "digits", "--ipc", "1", "--recipe", "smoke")
    outcome = bad_plugin.run(shell, registry, "run", *options)
    outcome.refused(
        f"method 'unsure' of {bad_plugin.name}: ZeroDivisionError: cannot say (traceback: results/failures/"
    )
    (path,) = (shell.results / "failures").iterdir()
    assert 'raise ZeroDivisionError("cannot say")' in path.read_text()
    path.unlink()
    outcome = bad_plugin.run(shell, registry, "table", "comparison", *options, "--run")
    outcome.refused("ZeroDivisionError: cannot say (traceback: results/failures/unsure-digits.txt)")
    assert 'raise ZeroDivisionError("cannot say")' in (shell.results / "failures" / "unsure-digits.txt").read_text()


def test_a_table_that_fails_is_named_and_the_report_goes_on_without_it(bad_plugin: BadPlugin, shell: Shell) -> None:
    first = bad_plugin.run(
        shell, PluginRegistry(), "run", "--method", "random", *bad_plugin.small, "--evaluator", "hard"
    )
    assert first.code == 0, first.err
    registry = bad_plugin.registry(tables=[spec for spec, _ in TABLES.values()])
    for spec, message in TABLES.values():
        outcome = bad_plugin.run(shell, registry, "table", spec.name, "--dataset", "digits")
        outcome.refused(f"table '{spec.name}' of {bad_plugin.name}", message)
    twice = table("bad-twice", columns=(), cells=lambda wanted: [Cell("a", "random", "digits", n) for n in (1, 2)])
    specs = [*(spec for spec, _ in TABLES.values()), twice]
    outcome = bad_plugin.run(shell, bad_plugin.registry(tables=specs), "report")
    assert outcome.code == 0, outcome.err
    for spec in specs:
        assert sum(f"left out: table '{spec.name}' of {bad_plugin.name}" in line for line in outcome.errors) == 1
    (record,) = (shell.results / "records").iterdir()
    assert f'id="record-{record.stem}"' in (shell.results / "report.html").read_text(encoding="utf-8")


def split(**changes: Any) -> ArraySplit:
    made = ArraySplit(np.zeros((4, 8, 8), np.uint8), np.array([0, 0, 1, 1]))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


DATASETS: dict[str, tuple[Callable[[Path | None], Any], str]] = {
    "raises": (lambda folder: {}["where"], "KeyError: 'where'"),
    "leaves": (lambda folder: sys.exit(0), "SystemExit: 0"),
    "nothing": (lambda folder: None, "AttributeError"),
    "labels beyond": (lambda folder: Source(("a", "b"), split(labels=np.array([0, 0, 1, 2])), split()), "0 to 2: 2"),
    "labels below": (lambda folder: Source(("a", "b"), split(labels=np.array([-1, 0, 1, 1])), split()), "from -1"),
    "unsorted": (lambda folder: Source(("a", "b"), split(), split(labels=np.array([1, 0, 1, 0]))), "sorted"),
    "no image": (lambda folder: Source(("a", "b"), split(labels=np.array([], np.int64)), split()), "labels of train"),
    "one name twice": (lambda folder: Source(("a", "a"), split(), split()), "class names"),
    "floats": (lambda folder: ArraySplit(np.zeros((4, 8, 8)), np.zeros(4, np.int64)), "pixels are float64 [4, 8, 8]"),
    "labels of others": (lambda f: ArraySplit(np.zeros((4, 8, 8), np.uint8), np.zeros(3, np.int64)), "4 images have"),
}


@pytest.mark.parametrize("what", DATASETS)
def test_a_dataset_that_is_none_is_one_line(bad_plugin: BadPlugin, shell: Shell, what: str) -> None:
    opened, message = DATASETS[what]
    spec = DatasetSpec(name="hollow", about="misbehaves.", source="none", native_size=8, open=opened)
    words = ("run", "--method", "random", "--dataset", "hollow", "--ipc", "1", "--recipe", "smoke", "--device", "cpu")
    outcome = bad_plugin.run(shell, bad_plugin.registry(datasets=[spec]), *words)
    outcome.refused(f"dataset 'hollow' of {bad_plugin.name}", message)
    assert not (shell.results / "records").exists()


# -- what is installed --------------------------------------------------------------------------------------


@pytest.fixture
def site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install_plugin: Callable[[Path, str, str], None]
) -> Iterator[Callable[[str], list[metadata.EntryPoint]]]:
    """Installs the distribution `ddfault-bad` with this source, and gives its entry points."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(source: str) -> list[metadata.EntryPoint]:
        install_plugin(tmp_path, "ddfault-bad", "from ddbench.api import hookimpl\n" + source)
        return [
            point
            for distribution in metadata.distributions(path=[str(tmp_path)])
            for point in distribution.entry_points
        ]

    yield install
    sys.modules.pop("ddfault_bad", None)


NAMED = """
from ddbench.api import Distiller
@hookimpl
def ddbench_distillers():
    return [type("Bad", (Distiller,), {"__module__": __name__, "name": %r, "version": "1"})]
"""


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class Weird(BaseException): pass\nraise Weird('import')", "Weird: import"),
        ("raise SystemExit", "SystemExit"),
        ("@hookimpl\ndef ddbench_tables():\n    raise SystemExit(0)", "SystemExit: 0"),
        ("@hookimpl\ndef ddbench_evaluators():\n    return None", "TypeError"),
        ("@hookimpl\ndef ddbench_datasets():\n    return ['digits']", "'digits' is not a DatasetSpec"),
        ("@hookimpl\ndef ddbench_tables():\n    return [print]", "is not a TableSpec"),
        *(
            (NAMED % name, "is not a valid name")
            for name in ("../x", "/x", "a/b", "", "a b", "-x", "..", "a\nb", "\x1b[2J", 7)
        ),
    ],
)
def test_a_plugin_that_fails_at_its_import_or_names_paths_is_left_out(
    site: Callable[[str], list[metadata.EntryPoint]], capsys: pytest.CaptureFixture[str], source: str, message: str
) -> None:
    points = [*site(source), *(point for point in metadata.entry_points(group="ddbench") if point.name == "methods")]
    registry = PluginRegistry(points)
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("ddbench: warning: plugin 'plug' of ddfault-bad is left out: ")
    assert message in line or "`name`" in line
    assert captured.out == ""
    assert "random" in {method.name for method in registry.distillers()}


def test_what_an_import_prints_and_changes_stays_out_of_results_and_numbers(
    site: Callable[[str], list[metadata.EntryPoint]], capsys: pytest.CaptureFixture[str]
) -> None:
    points = site("import torch\nprint('look at me')\ntorch.set_default_dtype(torch.float64)")
    PluginRegistry(points)
    captured = capsys.readouterr()
    assert torch.get_default_dtype() is torch.float32
    assert captured.out == ""
    assert "look at me" in captured.err
    assert "plugin 'plug' of ddfault-bad changed torch's default dtype when it was imported: restored" in captured.err


def test_a_recipe_that_is_none_is_named_with_who_ships_it(bad_plugin: BadPlugin, shell: Shell, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("blocks: [*nobody]")
    outcome = bad_plugin.run(shell, bad_plugin.registry(recipes=[bad]), "run", "--method", "random", *bad_plugin.small)
    outcome.refused(f"recipe {bad} is not plain YAML", f"{bad_plugin.name} ships it")


def test_commands_neither_end_the_program_nor_take_each_others_places(
    bad_plugin: BadPlugin, capsys: pytest.CaptureFixture[str]
) -> None:
    class Takes:
        @hookimpl
        def ddbench_commands(self, cli: click.Group) -> None:
            cli.add_command(click.Command("run"))
            cli.add_command(click.Command("extra"))
            print("look at me")
            sys.exit()

    cli = click.Group(commands=[own := click.Command("run")])
    registry = PluginRegistry(())
    registry.register(Takes(), bad_plugin.name)
    registry.add_commands(cli)
    captured = capsys.readouterr()
    assert cli.commands["run"] is own
    assert "extra" in cli.commands
    assert captured.out == ""
    assert f"plugin of {bad_plugin.name} could not add its commands: SystemExit" in captured.err
    assert f"plugin of {bad_plugin.name} may not replace the command run" in captured.err
