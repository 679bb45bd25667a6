"""Top-1 over optimiser steps: whose curves share a line and a panel, and the command."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from ddbench.core.errors import DDBenchError
from ddbench.figures import compute
from ddbench.results.records import Record

if TYPE_CHECKING:
    from conftest import Shell


@pytest.fixture
def curved(record: Callable[..., Record]) -> Callable[..., Record]:
    """A record with a curve from {step: top-1}; the last point is the result. `epochs` are in place of the steps."""

    def make(curve: dict[int, float], steps: int = 300, epochs: int | None = None, **changes: Any) -> Record:
        made = record(curve[max(curve)], **changes)
        metrics = made.metrics.model_copy(update={"curve": list(curve.items()), "student_steps": max(curve)})
        settings = {**made.configuration["evaluator_settings"], "epochs": epochs}
        settings |= {"steps": steps} if epochs is None else {}
        settings["measure_at"] = [step for step in curve if step < steps]
        configuration = {**made.configuration, "evaluator_settings": settings}
        return Record.model_validate(
            made.model_copy(update={"metrics": metrics, "configuration": configuration}).model_dump()
        )

    return make


def test_a_point_is_the_mean_over_sets_at_its_step(curved: Callable[..., Record]) -> None:
    records = [
        curved({10: 20.0, 300: 60.0}),
        curved({10: 24.0, 300: 64.0}, repeat=1, distilled_digest="other"),
        curved({10: 10.0, 300: 50.0}, method="random"),
        curved({10: 8.0, 300: 30.0}, method="random", evaluator="hard"),
    ]
    data = compute.frame(records)
    rows = {(row.evaluator, row.series, row.x): (row.top1, row.n, row.sets) for row in data.itertuples()}
    assert rows == {
        ("fkd", "wmdd", 10): (22.0, 2, 2),
        ("fkd", "wmdd", 300): (62.0, 2, 2),
        ("fkd", "random", 10): (10.0, 1, 1),
        ("fkd", "random", 300): (50.0, 1, 1),
        ("hard", "random", 10): (8.0, 1, 1),
        ("hard", "random", 300): (30.0, 1, 1),
    }
    assert set(data["panel"]) == {f"imagenette, 64 px, IPC 10\n{name} v1, resnet18" for name in ("fkd", "hard")}


def test_other_points_of_one_student_join_its_line(curved: Callable[..., Record]) -> None:
    """Two runs of one student, measured at other steps: the result counts once."""
    records = [curved({10: 20.0, 300: 60.0}), curved({30: 35.0, 300: 60.0}, created="2026-02-01T00:00:00+00:00")]
    data = compute.frame(records)
    assert [(row.x, row.top1, row.n, row.mixture) for row in data.itertuples()] == [
        (10, 20.0, 1, ""),
        (30, 35.0, 1, ""),
        (300, 60.0, 1, ""),
    ]


def test_runs_of_other_lengths_have_other_panels(curved: Callable[..., Record]) -> None:
    """After 100 steps, a run of 100 steps has decayed its rate, and one of 300 has not."""
    data = compute.frame([curved({10: 20.0, 100: 55.0}, steps=100), curved({10: 19.0, 100: 40.0, 300: 60.0})])
    assert sorted(panel.rpartition(", ")[2] for panel in set(data["panel"])) == ["steps 100", "steps 300"]


def test_sets_of_other_sizes_share_a_panel(curved: Callable[..., Record]) -> None:
    data = compute.frame(
        [curved({10: 20.0, 300: 60.0}, ipc=ipc, method="random") for ipc in (10, 50)] + [curved({300: 62.0})]
    )
    assert set(data["panel"]) == {"imagenette, 64 px\nfkd v1, resnet18"}
    assert set(data["series"]) == {"random, IPC 10", "random, IPC 50", "wmdd, IPC 10"}


def test_equal_epochs_on_other_sizes_are_other_lengths(curved: Callable[..., Record]) -> None:
    """After 300 steps, 300 epochs at IPC 10 have decayed the rate, and at IPC 50 they have not."""
    small, large = {10: 20.0, 300: 60.0}, {10: 22.0, 300: 55.0, 1500: 70.0}
    records = [curved(small, epochs=300), curved(large, epochs=300, ipc=50), curved(large, steps=1500, method="random")]
    panels = compute.frame(records).groupby("panel")["series"].agg(lambda names: sorted({*names}))
    assert {panel.rpartition(", ")[2]: names for panel, names in panels.items()} == {
        "steps 300": ["wmdd, IPC 10"],
        "steps 1500": ["random, IPC 10", "wmdd, IPC 50"],
    }


def test_messages_name_what_is_left_out_and_that_random_is_missing(
    curved: Callable[..., Record], record: Callable[..., Record]
) -> None:
    messages: list[str] = []
    compute.draw([curved({10: 20.0, 300: 60.0}), record(40.0, method="random")], messages.append)
    left_out, without = messages
    assert left_out == "left out: 1 record without a curve"
    assert without.startswith("note: 1 panel without random images; e.g. ddbench run --method random --dataset")


def test_records_without_curves_are_refused_with_a_command(record: Callable[..., Record]) -> None:
    with pytest.raises(DDBenchError, match=r"--set 'evaluator.measure_at=\[10,30,100\]'"):
        compute.draw([record(60.0)], print)


@pytest.mark.slow
def test_the_command_draws_the_curves_of_a_run(heights: Callable[[str, str], list[float]], shell: Shell) -> None:
    options = ("--set", "evaluator.steps=12", "--set", "evaluator.measure_at=[2,5]", "--evaluator", "hard")
    shell.run("--method", "random", "--dataset", "digits", "--ipc", "1", "--ipc", "3", *options)
    drawn = shell("figure", "compute")
    assert drawn.code == 0, drawn.err
    assert drawn.out.splitlines() == [f"written: results/figures/compute.{form}" for form in ("svg", "png")]
    svg = (shell.results / "figures" / "compute.svg").read_text(encoding="utf-8")
    for text in ("optimiser steps", "random, IPC 1", "random, IPC 3", "one training run with one schedule"):
        assert text in svg
    assert [len(heights(svg, f"mean-{number}")) for number in range(2)] == [3, 3]
    shown = shell("show")
    assert " at 2, " in shown.out
    assert " at 12 (one run, one schedule; the last is the result)" in shown.out
