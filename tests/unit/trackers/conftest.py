"""A small grid as a tracker sees it: two units of a set, a student, a picture, a record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from ddbench.api import Context, Event, Tracker
from ddbench.results import records
from ddbench.results.records import Record

REFERENCE = Path(__file__).parents[3] / "results" / "reference"


@dataclass
class Grid:
    """What `track` sends."""

    record: Record
    picture: Path
    losses: list[float]


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    """The grid of one record."""
    path = min(REFERENCE.glob("imagenette-64px/records/wmdd-*.json"))
    picture = tmp_path / "preview.png"
    Image.new("RGB", (6, 4), (255, 0, 0)).save(picture)
    return Grid(records.read(path), picture, [0.5, 0.25])


@pytest.fixture
def track(grid: Grid) -> Callable[[Tracker], None]:
    """Sends the grid to a tracker: a cell with a record, and one that fails."""

    def track(tracker: Tracker) -> None:
        context = Context("the cell", grid.record.name, grid.record.configuration)
        for part in (0, 1):
            for step, loss in enumerate(grid.losses, 1):
                metrics = {"loss": loss + part, "learning_rate": 0.1}
                tracker.ddbench_event(
                    Event("step", "distill", f"{part}/2", step, 2, metrics, part=part, context=context)
                )
            tracker.ddbench_event(Event("finished", "distill", f"{part}/2", metrics={"seconds": 1.0}, part=part))
        tracker.ddbench_event(Event("step", "evaluate", "student", 30, 30, {"loss": 2.0}, context=context))
        tracker.ddbench_event(Event("finished", "evaluate", "student", metrics={"top1": 61.5}, context=context))
        tracker.ddbench_event(Event("note", "data", message="a note"))
        tracker.ddbench_event(Event("preview", "distill", context=context, image=grid.picture))
        tracker.ddbench_record(grid.record)
        failed = Context("the other cell", "random-digits-ipc1-01234567", {"method": "random", "data": {"size": 8}})
        tracker.ddbench_event(Event("step", "teacher", "net", 1, 2, {"loss": 3.0}, context=failed))
        tracker.close()

    return track
