"""The work list of a grid: its items, their order, and what a failure takes with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ddbench.core.errors import DDBenchError, PluginError
from ddbench.execution.work_list import Failure, WorkItem, WorkList
from ddbench.pipeline.pipeline import Pipeline

Grid = Callable[..., list[Pipeline]]


def drain(work: WorkList) -> list[WorkItem]:
    """All items that can start, one after the other, each done before the next."""
    order = []
    while item := work.pop_ready():
        order.append(item)
        work.mark_done(item)
    return order


def test_a_grid_follows_the_stage_graph_and_shared_artifacts_are_built_once(grid: Grid) -> None:
    cells = grid(ipcs=(1, 2), seeds=2)
    work = WorkList(cells)
    order = drain(work)
    # One teacher, ten classes; units of four images: 3 of IPC 1, 5 of IPC 2; two students and one measure a set.
    expected = {"teacher": 1, "statistics": 10, "distill": 3 + 5, "evaluate": 4, "measure": 2}
    assert {stage: sum(item.stage == stage for item in order) for stage in expected} == expected
    assert len(order) == work.total == sum(expected.values())
    built: set[str] = set()
    for item in order:
        assert built >= item.inputs, item.name
        assert built.isdisjoint(item.outputs)
        built.update(item.outputs)
    units = [item for item in order if item.stage == "distill"]
    assert all({name.partition("/")[0] for name in item.inputs} == {"teacher", "statistics"} for item in units)
    assert [len(item.inputs) for item in units] == [1 + 4, 1 + 4, 1 + 2] + 5 * [1 + 2]
    assert all(work.is_done(cell) for cell in cells)
    assert work.remaining == 0


def test_an_item_waits_for_its_inputs(grid: Grid) -> None:
    work = WorkList(grid())
    teacher = work.pop_ready()
    assert teacher is not None
    assert (teacher.stage, work.pop_ready()) == ("teacher", None)
    work.requeue(teacher)  # its worker died
    assert work.pop_ready() is teacher
    work.mark_done(teacher)
    assert {item.stage for item in (work.pop_ready() for _ in range(10)) if item} == {"statistics"}
    assert work.pop_ready() is None


def test_cached_artifacts_are_no_work_and_the_keys_are_those_of_a_run(grid: Grid, tmp_path: Path) -> None:
    (cell,) = grid()
    for item in drain(WorkList([cell])):
        for part in item.parts:
            cell.graph[item.stage].ensure(cell, part)
        assert all((tmp_path / f"{name}.safetensors").is_file() for name in item.outputs)
    assert WorkList(grid()).total == 0
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    grid()[0].run()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == times
    next(tmp_path.glob("statistics/*")).unlink()
    (item,) = drain(WorkList(grid()))
    assert (item.stage, len(item.parts)) == ("statistics", 1)
    # A forced stage and those that depend on it are work until they are built anew.
    forced = grid(frozenset({"distill"}))
    items = drain(WorkList(forced))
    assert [item.stage for item in items if item.stage != "statistics"] == 5 * ["distill"] + ["evaluate", "measure"]
    assert all(forced[0].workspace.cache.adopt(name) for item in items[1:] for name in item.outputs)
    assert {item.stage for item in drain(WorkList(forced))} <= {"statistics"}


def test_a_failure_takes_the_items_that_need_it_and_no_others(grid: Grid) -> None:
    cells = grid(ipcs=(1, 2))
    work = WorkList(cells)
    failed = 0
    while item := work.pop_ready():
        if item.stage == "distill" and item.experiment.ipc == 1:
            work.mark_failed(item, Failure("diverged", "Traceback: ..."))
            failed += 1
        else:
            work.mark_done(item)
    assert (failed, work.remaining) == (3, 0)
    failure = work.failure(cells[0])
    assert failure is not None
    error = failure.error()
    assert isinstance(error, PluginError)
    assert (str(error), "Traceback: ..." in str(error.__cause__)) == ("diverged", True)
    assert work.failure(cells[1]) is None
    assert type(Failure("disk full").error()) is DDBenchError
