"""The cells of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ddbench
from ddbench.api.table import Cell, TableQuery, TableSpec
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.request import Request
from ddbench.registry.registry import PluginRegistry
from ddbench.results import published
from ddbench.tables.cells import cells_of, with_protocol_columns
from ddbench.tables.layout import format_table

REGISTRY = PluginRegistry()


METHODS = tuple(method.name for method in REGISTRY.distillers())


def request_of(**fields: Any) -> Request:
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
    request = request_of(datasets=tuple(datasets), methods=tuple(methods), ipcs=tuple(ipcs))
    every = cells_of(spec, request_of(datasets=tuple(datasets), ipcs=tuple(ipcs)), REGISTRY, [])
    wanted = [cell for cell in every if not methods or cell.method in methods]
    if not wanted:
        with pytest.raises(DDBenchError, match=f"^table '{name}' has no cells for method "):
            cells_of(spec, request, REGISTRY, [])
        return
    cells = cells_of(spec, request, REGISTRY, [])
    key = {(cell.row, cell.dataset, *(getattr(cell, column) for column in spec.columns)): cell for cell in cells}
    assert len(key) == len(cells)
    assert {cell.dataset for cell in cells} == set(datasets)
    twice = {2 * ipc for ipc in ipcs or spec.ipcs} if name == "budget" else set()
    assert {cell.ipc for cell in cells if cell.method != "random"} <= {*(ipcs or spec.ipcs), None}
    assert {cell.ipc for cell in cells} <= {*(ipcs or spec.ipcs), None, *twice}
    assert {cell.method for cell in cells} == {cell.method for cell in wanted}
    for cell in cells:
        assert (cell.ipc is None) == (not REGISTRY.distiller(cell.method).needs_ipc or name == "hyperparameters")
    if name != "metric":  # whose rows depend on what other methods there are
        assert sorted(map(repr, cells)) == sorted(map(repr, wanted))


def test_a_method_without_an_ipc_has_one_cell_under_its_own_protocol() -> None:
    request = request_of(datasets=("digits",), methods=("full", "random"), ipcs=(1, 10))
    cells = cells_of(REGISTRY.table("regimes"), request, REGISTRY, [])
    assert [(cell.ipc, cell.evaluator) for cell in cells if cell.method == "full"] == [(None, "full-data")]
    assert len([cell for cell in cells if cell.method == "random"]) == 6
    # It has no distilled images to choose an epoch on.
    with pytest.raises(DDBenchError, match="no cells for method full"):
        cells_of(REGISTRY.table("cross-arch"), request_of(datasets=("digits",), methods=("full",)), REGISTRY, [])


def test_two_cells_in_one_place_are_refused() -> None:
    def cells(query: TableQuery) -> list[Cell]:
        return [Cell("random", "random", "digits", ipc) for ipc in query.ipcs]

    spec = TableSpec("mine", "mixes IPCs", cells, columns=())
    with pytest.raises(DDBenchError, match="table 'mine' has two cells in row 'random'"):
        cells_of(spec, request_of(ipcs=(1, 2)), REGISTRY, [])
    assert len(cells_of(spec, request_of(ipcs=(2, 2)), REGISTRY, [])) == 1


def test_without_anything_a_table_is_the_papers_datasets_and_numbers(tmp_path: Path) -> None:
    for name in published.TABLES:
        if name == "hyperparameters":
            continue
        theirs = published.load(name)
        frame = ddbench.table(name, results_dir=tmp_path)
        assert set(frame["state"]) <= {"never run", "published only"}, name
        assert list(frame["dataset"].drop_duplicates()) == list(theirs["dataset"].drop_duplicates()), name
        spec = REGISTRY.table(name)
        shown = theirs[theirs["ipc"].isin(frame["ipc"]) | theirs["ipc"].isna()]
        for metric, how in spec.metrics.items():
            values = shown.loc[shown["metric"] == (how.published_as or metric), "value"]
            assert sorted(frame[f"published_{metric}"].dropna()) == sorted(values), (name, metric)
        text = format_table(spec, frame, "text")
        assert "never run" in text
        assert f"published: {spec.reference}" in text
    for name in ("lambda", "metric", "regimes"):
        frame = ddbench.table(name, results_dir=tmp_path)
        assert list(frame["dataset"].drop_duplicates()) == list(published.PAPER_SIZES)
        assert set(frame["state"]) == {"never run"}


def test_several_protocols_have_a_column_each() -> None:
    """Cells without a protocol have those of the options; one is the default of a method, which other cells keep."""
    several = request_of(
        methods=("rded", "random", "full"), ipcs=(1,), datasets=("digits",), evaluators=("fkd", "rded")
    )
    spec = with_protocol_columns(REGISTRY.table("comparison"), several)
    assert spec.columns == ("ipc", "evaluator")
    cells = [(cell.method, cell.ipc, cell.evaluator) for cell in cells_of(spec, several, REGISTRY, [])]
    assert cells == [
        ("rded", 1, "fkd"), ("rded", 1, "rded"), ("random", 1, "fkd"), ("random", 1, "rded"),
        ("full", None, "full-data"),
    ]  # fmt: skip
    own = request_of(methods=("rded", "random"), ipcs=(1,), datasets=("digits",), evaluators=("own-protocol", "fkd"))
    cells = [(cell.method, cell.ipc, cell.evaluator) for cell in cells_of(spec, own, REGISTRY, [])]
    assert cells == [("rded", 1, "rded"), ("rded", 1, "fkd"), ("random", 1, "fkd")]
    one = request_of(evaluators=("fkd",))
    assert with_protocol_columns(REGISTRY.table("comparison"), one).columns == ("ipc",)
    with pytest.raises(DDBenchError, match="sets the protocol of every cell"):
        cells_of(REGISTRY.table("regimes"), several, REGISTRY, [])
