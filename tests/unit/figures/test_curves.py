"""Curves of top-1: labels of series that no setting distinguishes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from ddbench.evaluators.protocols import HardLabels, KnowledgeDistillation
from ddbench.figures import curves
from ddbench.results.means import mean_top1
from ddbench.results.records import Record

PROTOCOLS = {"fkd": KnowledgeDistillation().model_dump(), "hard": HardLabels().model_dump()}


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.01, 0.3))
def test_names_keep_their_order_and_their_distance(heights: list[float], gap: float) -> None:
    moved = curves.spread(sorted(heights), gap)
    assert len(moved) == len(heights)
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(moved))


def test_what_no_setting_tells_apart_bears_the_key_of_a_record(record: Callable[..., Record]) -> None:
    older, newer = record(1.0), record(2.0, seed=1)
    newer.configuration["method_settings"]["a_setting_since"] = 1.0
    frame = mean_top1([older, newer], "ipc")
    keys = {one.metrics.top1_last: one.name.rpartition("-")[2] for one in (older, newer)}
    assert {row.top1: row.series for row in frame.itertuples()} == {top1: f"wmdd [{key}]" for top1, key in keys.items()}
    assert "In brackets: a record's key" in curves.measurement_note(frame)


def test_a_panel_has_eight_lines_those_with_the_most_points() -> None:
    rows = [("one", f"m{number}", x) for number in range(10) for x in range(1 + number % 5)] + [("two", "m0", 1)]
    frame = pd.DataFrame(rows, columns=["panel", "series", "x"])
    messages: list[str] = []
    kept = curves.at_most(frame, messages.append)
    assert set(kept.loc[kept["panel"] == "one", "series"]) == {f"m{number}" for number in range(10) if number % 5}
    assert len(kept[kept["panel"] == "two"]) == 1
    assert len(kept) == len(rows) - 2
    assert messages == ["left out: 2 lines; choose with --methods and --recipe"]
