"""Tables without a run: which cells there are, and the command line: bad input, files, what stays unloaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ddbench.api.table
from ddbench.api.hookspecs import hookimpl
from ddbench.api.table import Cell, TableQuery, TableSpec
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.request import Request
from ddbench.registry.registry import PluginRegistry
from ddbench.results import published
from ddbench.tables.cells import cells_of
from ddbench.tables.layout import text_of

if TYPE_CHECKING:
    from conftest import Shell

REGISTRY = PluginRegistry()
METHODS = tuple(method.name for method in REGISTRY.distillers())
NOWHERE = Path("nowhere")


def asked(**fields: Any) -> Request:
    return Request(**{"methods": (), "datasets": (), "ipcs": (), **fields})


@given(
    name=st.sampled_from([spec.name for spec in REGISTRY.tables()]),
    datasets=st.lists(st.sampled_from(["digits", "imagenette", "cifar10"]), min_size=1, max_size=4),
    methods=st.lists(st.sampled_from(METHODS), max_size=4, unique=True),
    ipcs=st.lists(st.integers(1, 100), max_size=3),
)
def test_cells_are_distinct_and_of_what_is_asked_for(
    name: str, datasets: list[str], methods: list[str], ipcs: list[int]
) -> None:
    spec = REGISTRY.table(name)
    request = asked(datasets=tuple(datasets), methods=tuple(methods), ipcs=tuple(ipcs))
    every = cells_of(spec, asked(datasets=tuple(datasets), ipcs=tuple(ipcs)), REGISTRY, NOWHERE)
    wanted = [cell for cell in every if not methods or cell.method in methods]
    if not wanted:
        with pytest.raises(DDBenchError, match=f"^table '{name}' has no cell of method "):
            cells_of(spec, request, REGISTRY, NOWHERE)
        return
    cells = cells_of(spec, request, REGISTRY, NOWHERE)
    key = {(cell.row, cell.dataset, *(getattr(cell, across) for across in spec.across)): cell for cell in cells}
    assert len(key) == len(cells)
    assert {cell.dataset for cell in cells} == set(datasets)
    assert {cell.ipc for cell in cells} <= {*(ipcs or spec.ipcs), None}
    assert {cell.method for cell in cells} == {cell.method for cell in wanted}
    for cell in cells:
        assert (cell.ipc is None) == (not REGISTRY.distiller(cell.method).needs_ipc or name == "hyperparameters")
    if name != "metric":  # whose rows depend on what other methods there are
        assert sorted(map(repr, cells)) == sorted(map(repr, wanted))


def test_a_method_without_an_ipc_has_one_cell_under_its_own_protocol() -> None:
    request = asked(datasets=("digits",), methods=("full", "random"), ipcs=(1, 10))
    cells = cells_of(REGISTRY.table("regimes"), request, REGISTRY, NOWHERE)
    assert [(cell.ipc, cell.evaluator) for cell in cells if cell.method == "full"] == [(None, "full-data")]
    assert len([cell for cell in cells if cell.method == "random"]) == 6
    # It has no distilled images to choose an epoch on.
    with pytest.raises(DDBenchError, match="no cell of method full"):
        cells_of(REGISTRY.table("cross-arch"), asked(datasets=("digits",), methods=("full",)), REGISTRY, NOWHERE)


def test_two_cells_in_one_place_are_refused() -> None:
    def cells(asked: TableQuery) -> list[Cell]:
        return [Cell("random", "random", "digits", ipc) for ipc in asked.ipcs]

    spec = TableSpec("mine", "mixes IPCs", cells, across=())
    with pytest.raises(DDBenchError, match="table 'mine' has two cells in row 'random'"):
        cells_of(spec, asked(ipcs=(1, 2)), REGISTRY, NOWHERE)
    assert len(cells_of(spec, asked(ipcs=(2, 2)), REGISTRY, NOWHERE)) == 1


def test_without_anything_a_table_is_the_papers_datasets_and_numbers(tmp_path: Path) -> None:
    for name in published.TABLES:
        if name == "hyperparameters":
            continue
        theirs = published.load(name)
        frame = ddbench.tables.load.load(name, tmp_path)
        assert set(frame["state"]) <= {"never run", "published only"}, name
        assert list(frame["dataset"].drop_duplicates()) == list(theirs["dataset"].drop_duplicates()), name
        spec = REGISTRY.table(name)
        shown = theirs[theirs["ipc"].isin(frame["ipc"]) | theirs["ipc"].isna()]
        for metric, how in spec.metrics.items():
            mine = shown.loc[shown["metric"] == (how.printed or metric), "value"]
            assert sorted(frame[f"published_{metric}"].dropna()) == sorted(mine), (name, metric)
        text = text_of(spec, frame, "text")
        assert "never run" in text
        assert f"published: {spec.reference}" in text
    for name in ("lambda", "metric", "regimes"):
        frame = ddbench.tables.load.load(name, tmp_path)
        assert list(frame["dataset"].drop_duplicates()) == list(published.PAPER_SIZES)
        assert set(frame["state"]) == {"never run"}


# -- the command ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("ablatoin",), "unknown table 'ablatoin'; did you mean 'ablation'?"),
        (("comparison", "--methods", "random,wmd"), "unknown method 'wmd'; did you mean 'wmdd'?"),
        (("ablation", "--methods", "random"), "table 'ablation' has no cell of method random"),
        (("ablation", "--dataset", "digit"), "unknown dataset 'digit'; did you mean 'digits'?"),
        (("ablation", "--dataset", "digits", "--recipe", "smok"), "unknown recipe 'smok'; did you mean 'smoke'?"),
        (("ablation", "--dataset", "digits", "--set", "method.stepz=3"), "method (wmdd) has no setting 'stepz'; did"),
        (("ablation", "--set", "wmdd.steps=none"), "method.steps: "),
        (("ablation", "--dataset", "digits", "--ipc", "0"), "--ipc 0: images per class must be at least 1"),
        (("sliced", "--dataset", "digits", "--ipc", "9999", "--recipe", "smoke"), "--ipc 9999 is more than the 142"),
        (("ablation", "--dataset", "imagefolder:/no/such", "--recipe", "smoke"), "/no/such"),
        (("ablation", "--format", "yaml"), "'yaml' is not one of 'text', 'markdown'"),
        (("ablation", "--output", "file/table.txt"), "cannot write to file/table.txt: Not a directory"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_computed(shell: Shell, arguments: tuple[str, ...], says: str) -> None:
    (shell.root / "file").touch()
    outcome = shell("table", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    lines = [line for line in outcome.errors if line.startswith("ddbench: ")]
    assert len(lines) == 1
    assert says in lines[0]
    written = {name for name in shell.files() if not name.startswith("cache/data/")}
    assert written == {"file"}


def test_a_table_goes_to_a_file(shell: Shell) -> None:
    outcome = shell("table", "layers", "--format", "markdown", "--output", "new/folder/layers.md")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "written: new/folder/layers.md\n"
    text = (shell.root / "new/folder/layers.md").read_text(encoding="utf-8")
    assert text == shell("table", "layers", "--format", "markdown").out
    assert "| 18      | never run | 41.8        |" in text
    assert list(shell.files()) == ["new/folder/layers.md"]


def test_without_data_it_says_so(shell: Shell) -> None:
    said = "no dataset is named and none is in the data folder: from records and published numbers alone"
    assert shell("table", "layers").errors == [said]
    assert shell("table", "layers", "--only-cached").errors == []
    told = shell("table", "layers", "--dry-run")
    assert told.errors == [said]
    assert told.out.splitlines()[2].split() == ["5", "tiny-imagenet", "10"]


def test_a_plugins_table_is_found_beside_the_others() -> None:
    registry = PluginRegistry()
    spec = TableSpec("mine", "my own", lambda asked: [Cell("a", "random", "digits", 1)])
    registry.register(SimpleNamespace(ddbench_tables=hookimpl(lambda: [spec])), "mine")
    assert registry.table("mine") is spec
    with pytest.raises(DDBenchError, match="unknown table 'mien'; did you mean 'mine'"):
        registry.table("mien")


def test_help_and_list_import_neither_torch_nor_pandas() -> None:
    code = """
        import contextlib, io, sys
        from ddbench.cli import main
        for words in ("--help", "table --help", "list tables", "list tables ablation"):
            sys.argv = ["ddbench", *words.split()]
            with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.suppress(SystemExit):
                main()
            assert len(told.getvalue()) > 100, words
        print(sorted({"torch", "pandas", "numpy", "matplotlib"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
