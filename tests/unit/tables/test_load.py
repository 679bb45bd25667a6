"""A table of a folder's records, as a frame."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ddbench.core.errors import DDBenchError
from ddbench.tables.load import load
from ddbench.tables.rows import FRAME_COLUMNS


def test_a_folder_without_records_gives_the_cells_of_the_table(tmp_path: Path) -> None:
    frame = load("comparison", tmp_path)
    assert set(FRAME_COLUMNS) <= set(frame.columns)
    assert len(frame)
    assert set(frame["table"]) == {"comparison"}
    assert "measured" not in set(frame["state"])
    pd.testing.assert_frame_equal(frame, load("comparison", str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_images_per_class_are_chosen(tmp_path: Path) -> None:
    assert set(load("comparison", tmp_path, ipcs=(7,))["ipc"].dropna()) == {7}


def test_an_unknown_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DDBenchError, match="unknown table 'comparisn'; did you mean 'comparison'"):
        load("comparisn", tmp_path)
