"""The base class of trackers: which events become which calls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ddbench.api import Context, Event, Tracker


class Calls(Tracker):
    """Records its calls."""

    name = "calls"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.calls: list[tuple[Any, ...]] = []

    def start(self, run: str, configuration: Mapping[str, Any]) -> None:
        self.calls.append(("start", run, configuration))

    def log(self, run: str, values: Mapping[str, float], step: int) -> None:
        self.calls.append(("log", run, values, step))

    def finish(self, run: str, record: Mapping[str, Any] | None) -> None:
        self.calls.append(("finish", run, record))


def record(name: str) -> Any:
    return SimpleNamespace(name=name, configuration={"ipc": 1}, model_dump=lambda mode: {"name": name})


def test_two_cells_at_a_time_have_a_run_each() -> None:
    tracker = Calls(Path())
    one, two = Context("one", "random-1", {"ipc": 1}), Context("two", "random-2", {"ipc": 2})
    tracker.ddbench_event(Event("started", "distill", context=one))
    tracker.ddbench_event(Event("step", "distill", step=1, metrics={"loss": 0.5}, context=one))
    tracker.ddbench_event(Event("step", "distill", step=1, metrics={"loss": 0.6}, context=two, part=1))
    tracker.ddbench_event(Event("step", "data", step=1, metrics={"loss": 0.7}))  # of no cell
    tracker.ddbench_event(Event("step", "evaluate", step=9, context=one))  # nothing is measured
    tracker.ddbench_event(Event("finished", "evaluate", metrics={"seconds": 1.0, "top1": 50.0}, context=one))
    tracker.ddbench_record(record("random-1-89abcdef"))  # a record of this key and other numbers was there
    tracker.close()
    tracker.close()
    assert tracker.calls == [
        ("start", "random-1", {"ipc": 1}),
        ("log", "random-1", {"distill/loss": 0.5}, 1),
        ("start", "random-2", {"ipc": 2}),
        ("log", "random-2", {"distill/loss 2": 0.6}, 1),
        ("log", "random-1", {"evaluate/top1": 50.0}, 9),
        ("finish", "random-1", {"name": "random-1-89abcdef"}),
        ("finish", "random-2", None),
    ]


def test_a_cell_from_the_cache_has_a_run_with_its_record() -> None:
    tracker = Calls(Path())
    tracker.ddbench_event(Event("cached", "distill", context=Context("one", "random-1", {"ipc": 1})))
    tracker.ddbench_record(record("random-1"))
    assert tracker.calls == [("start", "random-1", {"ipc": 1}), ("finish", "random-1", {"name": "random-1"})]
