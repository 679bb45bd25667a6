"""The paper's numbers beside those of a frame, and the cells that the paper alone has."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import pandas as pd

from ddbench.api.table import Cell, TableSpec
from ddbench.registry.registry import PluginRegistry
from ddbench.tables.layout import text_blocks
from ddbench.tables.published_columns import published_datasets, published_only, published_rows, with_published

if TYPE_CHECKING:
    from tests.unit.tables.conftest import Stored

CORE = PluginRegistry([point for point in entry_points(group="ddbench") if point.dist.name == "ddbench"])
COMPARISON = CORE.table("comparison")
OWN = TableSpec("of ones own", "", lambda query: [Cell("a", "random", "digits", 1)])


def frame(*rows: str, dataset: str = "imagenette", ipc: int = 10) -> pd.DataFrame:
    """The columns that published numbers are found by."""
    return pd.DataFrame([{"row": row, "dataset": dataset, "ipc": ipc, "student": "resnet18"} for row in rows])


def test_numbers_stand_beside_the_row_of_their_method() -> None:
    shown = with_published(COMPARISON, frame("random", "wmdd", "no such method"))
    assert shown["published_top1"].tolist()[:2] == [47.7, 64.8]
    assert shown["published_top1_error"].tolist()[:2] == [2.4, 0.4]
    assert shown["published_top1"].isna().tolist() == [False, False, True]
    assert shown["row"].tolist() == ["random", "wmdd", "no such method"]


def test_a_cell_that_the_paper_has_not_stays_empty() -> None:
    for other in (frame("random", ipc=7), frame("random", dataset="digits")):
        assert with_published(COMPARISON, other)["published_top1"].isna().all()


def test_cells_of_the_paper_alone_are_those_of_the_datasets_and_ipcs_that_are_shown() -> None:
    only = published_only(COMPARISON, frame("random"))
    assert {"mtt", "wmdd"} <= set(only["row"])
    assert "random" not in set(only["row"])
    assert set(only["dataset"]) == {"imagenette"}
    assert set(only["ipc"]) == {10}
    assert set(only["state"]) == {"published only"}
    assert published_only(COMPARISON, frame("random", ipc=7)).empty


def test_a_table_that_is_not_the_papers_has_no_published_numbers() -> None:
    assert published_datasets(OWN) == ()
    assert published_rows(OWN).empty
    pd.testing.assert_frame_equal(with_published(OWN, frame("random")), frame("random"))
    assert "imagenette" in published_datasets(COMPARISON)


def test_the_difference_to_the_paper_is_under_the_papers_conditions_alone(stored: Stored) -> None:
    of_paper = {"recipes": ("paper",), "datasets": ("imagenette",)}
    spec = stored.registry.table("ablation")
    other = {"name": "resnet18", "top1": 91.0, "key": "t", "digest": "another"}
    actual = [
        stored.record(stored.experiment(**of_paper), 60.0),
        stored.record(stored.experiment(**of_paper, image_size=64), 61.0),
        stored.record(stored.experiment(**of_paper, assignments=("teacher.epochs=5",)), 62.0, teacher=other),
    ]
    frame = stored.frame(*actual, datasets=("imagenette",))
    shown = [block.cells.iloc[0].to_dict() for block in text_blocks(spec, frame)]
    assert sorted((cells["IPC 10"], cells.get("IPC 10 difference", "")) for cells in shown) == [
        ("60.00 (1 set)", "-4.70"),
        ("61.00 (1 set)", ""),
        ("62.00 (1 set)", ""),
    ]


def test_no_difference_to_what_the_paper_quotes_from_elsewhere(stored: Stored) -> None:
    of_paper = {"recipes": ("paper",), "datasets": ("imagenette",)}
    actual = [
        stored.record(stored.experiment(**of_paper, methods=(name,)), 60.0) for name in ("wmdd", "random", "sre2l")
    ]
    frame = stored.frame(*actual, name="comparison", datasets=("imagenette",), methods=("wmdd", "random", "sre2l"))
    (block,) = text_blocks(stored.registry.table("comparison"), frame)
    cells = block.cells.set_index("method")
    assert cells["IPC 10 difference"].to_dict() == {"wmdd": "-4.80", "random": "", "sre2l": ""}
    assert cells.loc[["wmdd", "random", "sre2l"], "IPC 10 published"].tolist() == [
        *("64.8 ± 0.4", "47.7 ± 2.4 [1]", "54.2 ± 0.4 [2]")
    ]
    assert block.notes[0].startswith("[1] reported elsewhere")
    assert block.notes[1].startswith("[2] replicated")
