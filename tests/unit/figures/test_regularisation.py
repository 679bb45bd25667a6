"""Top-1 over lambda: which records share a curve, and the lines that are drawn."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from ddbench.core.errors import DDBenchError
from ddbench.evaluators.protocols import HardLabels, KnowledgeDistillation
from ddbench.figures import regularisation, scaling
from ddbench.results.means import mean_top1
from ddbench.results.records import Record

if TYPE_CHECKING:
    from conftest import Shell


PROTOCOLS = {"fkd": KnowledgeDistillation().model_dump(), "hard": HardLabels().model_dump()}


def points(frame: pd.DataFrame) -> dict[tuple[str, float], tuple[float, int, int]]:
    """(series, x) -> top-1, students, sets."""
    return {(row.series, row.x): (row.top1, row.n, row.sets) for row in frame.itertuples()}


def test_lambda_is_over_the_setting_and_keeps_everything_else_apart(record: Callable[..., Record]) -> None:
    actual = [
        record(30.0, bn_weight=0.1),
        record(50.0, bn_weight=10.0),
        record(54.0, bn_weight=10.0, seed=1),
        record(20.0, bn_weight=0.0),
        record(45.0, bn_weight=10.0, ipc=1),
        record(50.0, method="random"),
    ]
    frame = regularisation.frame(actual)
    assert set(frame["series"]) == {"wmdd"}
    by_panel = {panel: points(part) for panel, part in frame.groupby("panel")}
    assert by_panel == {
        "wmdd, imagenette, 64 px, IPC 10\nfkd v1, resnet18": {("wmdd", 0.1): (30.0, 1, 1), ("wmdd", 10.0): (52.0, 2, 1)}
    }
    messages: list[str] = []
    regularisation.draw(actual, messages.append)
    assert messages == ["left out: 3 records without another value of method.bn_weight in the same conditions"]


def test_a_field_of_another_method_is_not_on_the_same_axis(record: Callable[..., Record]) -> None:
    actual = [record(30.0, bn_weight=0.1), record(50.0, bn_weight=10.0)]
    other = [record(20.0, method="sre2l"), record(25.0, method="sre2l"), record(21.0, method="cda")]
    for one, weight in zip(other, (0.01, 0.1, 0.01), strict=True):
        one.configuration["method_settings"] = {"bn_weight": weight}
    frame = regularisation.frame([*actual, *other])
    assert {panel.partition(",")[0]: set(part["x"]) for panel, part in frame.groupby("panel")} == {
        "wmdd": {0.1, 10.0},
        "sre2l": {0.01, 0.1},
    }


def test_a_sweep_that_was_set_is_no_other_recipe(record: Callable[..., Record]) -> None:
    swept, other = record(1.0, bn_weight=1.0), record(2.0, bn_weight=2.0)
    swept.configuration["changed"] = ["method.bn_weight", "teacher.checkpoint"]
    other.configuration["changed"] = ["method.bn_weight", "method.steps"]
    assert [set(mean_top1([one], regularisation.SETTING)["recipe"]) for one in (swept, other)] == [
        {"quick"},
        {"quick + 1 changed"},
    ]


@pytest.mark.parametrize(
    ("draw", "needed"),
    [
        (scaling.draw, "needs a second number of images per class; e.g. ddbench run --method random"),
        (regularisation.draw, "needs records at a second value of method.bn_weight; e.g. ddbench run --method wmdd"),
    ],
)
def test_one_value_makes_no_curve(draw: Callable[..., object], needed: str, record: Callable[..., Record]) -> None:
    with pytest.raises(DDBenchError, match=re.escape(needed)):
        draw([record(50.0, method="random")], print)


def test_the_example_has_the_protocol_of_a_record_of_wmdd(record: Callable[..., Record]) -> None:
    others = [record(50.0, method="dm", evaluator="soft"), record(50.0, method="wmdd", evaluator="hard")]
    with pytest.raises(DDBenchError, match=r"--method wmdd .*--evaluator hard"):
        regularisation.draw(others, print)


@pytest.mark.slow
def test_the_command_draws_lambda_with_the_papers_claim(
    heights: Callable[[str, str], list[float]], shell: Shell
) -> None:
    run = ("--method", "wmdd", "--dataset", "digits", "--ipc", "1", "--set", "method.steps=2")
    for value in ("0.5", "50"):
        shell.run(*run, "--set", f"method.bn_weight={value}")
    missing = shell("figure", "lambda", "--ipc", "2")
    assert missing.code == 2
    assert missing.errors[-1].endswith("make one: ddbench run --method random --dataset digits --ipc 2")
    drawn = shell("figure", "lambda", "--ipc", "1")
    assert drawn.code == 0, drawn.err
    svg = (shell.results / "figures" / "lambda.svg").read_text(encoding="utf-8")
    for text in ("\u03bb (method.bn_weight)", "0.5", "50", "wmdd", "wmdd, digits, 8 px, IPC 1"):
        assert f">{text}</" in svg
    assert len(heights(svg, "mean-0")) == 2
    claim = " ".join(re.sub(r"<[^>]*>", " ", svg).split())
    assert "then is stable from about 10" in claim
    assert re.search(r"Recipe: smoke \+ \d changed", claim)
