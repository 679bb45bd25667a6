"""Records as a frame: its columns, and the same records from its rows."""

from __future__ import annotations

from collections.abc import Callable

from ddbench.results.frames import from_frame, to_frame
from ddbench.results.records import Record, Trial

Make = Callable[..., Record]


def test_a_row_holds_a_record(record: Make) -> None:
    trial = Trial(search="one", trial=1, of=4, settings={"method.x": 1})
    measured = {"ece": {"version": "1", "settings": {}, "values": {"ece": 4.5}, "seconds": 1.0}}
    stored = [
        record(100 / 3, name="a"),
        record(50.0, name="b").model_copy(update={"ipc": None}),
        record(60.0, name="c", trials=[trial], measures=measured),
    ]
    frame = to_frame(stored)
    assert frame["name"].tolist() == ["a", "b", "c"]
    assert frame["top1_last"].tolist() == [100 / 3, 50.0, 60.0]
    assert frame["ipc"].isna().tolist() == [False, True, False]
    assert frame["trials"].tolist() == [[], [], [trial.model_dump()]]
    assert frame["measure.ece"].tolist()[2] == 4.5
    assert {"method", "regime", "label_bytes", "student_seed", "holdout", "curve"} <= set(frame.columns)
    assert from_frame(frame) == stored
    assert from_frame(frame[frame["name"] == "c"]) == stored[2:]


def test_no_records_are_an_empty_frame() -> None:
    assert to_frame([]).empty
