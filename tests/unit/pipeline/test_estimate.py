"""The time that is left of a grid."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ddbench.api.cost import Passes
from ddbench.config.schema import Stem
from ddbench.pipeline.estimate import Estimate, Schedule
from ddbench.pipeline.executor import Inline
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.probe import Probe


def add(estimate: Estimate, pipeline: Any) -> float:
    estimate.seconds["teacher"] += pipeline.seconds
    return float(pipeline.seconds)


def cells(executor: object, *seconds: float) -> Any:
    """Stand for pipelines whose estimate is known."""
    return [SimpleNamespace(seconds=each, workspace=SimpleNamespace(executor=executor)) for each in seconds]


def test_the_time_left_follows_the_time_that_finished_cells_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Estimate, "add", add)
    clock = iter([1000.0, 1000.0, 1040.0, 1100.0])
    schedule = Schedule(cells(Inline(), 20.0, 40.0, 60.0), lambda: next(clock))
    assert schedule.total == 120.0
    assert schedule.left(0) == "about 2 min left"
    # The first cell took twice as long as estimated: so will the others.
    assert schedule.left(1) == "about 3 min left"
    # Two cells, estimated at 60 s, took 100 s.
    assert schedule.left(2) == "about 2 min left"


def test_the_time_left_of_a_grid_in_other_processes_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Estimate, "add", add)
    schedule = Schedule(cells(object(), 20.0, 40.0))
    assert (schedule.total, schedule.where) == (60.0, "in one process on this machine")
    assert schedule.left(0) == schedule.left(1) == ""


class KnownTimes(Probe):
    """Stands for the measurements: the seconds of an image by kind of pass and network."""

    def __init__(self, seconds: dict[tuple[str, str], float]) -> None:
        super().__init__()
        self._known = seconds

    def seconds_per_image(self, pipeline: Pipeline, passes: Passes, network: str, stem: Stem) -> float:
        return self._known.get((passes.kind, network), 0.0)

    def decoded_image(self, pipeline: Pipeline) -> tuple[float, float]:
        return 1e-3, 192.0


def test_each_teacher_of_a_pool_counts_with_its_own_network(
    desk_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two teachers of 3 epochs, whose mean logits label each view of a student of 2 epochs."""
    pool = ("evaluator.teachers=[convnet-d1]", "teacher.epochs=3", "teacher.arch=convnet-d2")
    (tmp_path / "data").mkdir()  # empty and not shared: decoding counts, whichever tests ran before
    desk = desk_in(tmp_path)
    cell = desk.cell(*pool, method="random", evaluators=("gvbsm",), students=("convnet-d3",))
    pipeline = desk.pipeline(cell)
    images, validated = sum(pipeline.info.train_counts), sum(pipeline.info.val_counts)
    seconds = {("training", "convnet-d1"): 1e-3, ("training", "convnet-d2"): 1e-1, ("training", "convnet-d3"): 1e-2}
    known = KnownTimes({**seconds, ("forward", "convnet-d1"): 1e-4})
    monkeypatch.setattr("ddbench.pipeline.estimate.Probe", lambda now: known)
    estimate = Estimate()
    estimate.add(pipeline)
    # Only the network of the pool labels. The validation images of each teacher pass once.
    assert estimate.seconds["teacher"] == pytest.approx(3 * images * (1e-3 + 1e-1) + validated * 1e-4)
    assert estimate.seconds["evaluate"] == pytest.approx(2 * 20 * (1e-2 + 1e-4))
    assert estimate.seconds["data"] == pytest.approx((images + validated) * 1e-3)
    assert estimate.detail.startswith("mostly teacher (")
    assert estimate.add(pipeline) == 0  # it is counted already
