"""Top-1 over bytes: which records share a line and a panel, and what is drawn."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from ddbench.api.evaluator import Metrics
from ddbench.core.errors import DDBenchError
from ddbench.figures import budget, style
from ddbench.results.records import Record

IMAGE = 3 * 64 * 64


@pytest.fixture
def student(record: Callable[..., Record]) -> Callable[..., Record]:
    """Makes a record with the bytes of its label budget, of which `settings` are those of the protocol."""

    def make(top1: float, label_bytes: int, settings: dict[str, Any] | None = None, **fields: Any) -> Record:
        made = record(top1, **fields)
        made.configuration["evaluator_settings"] = {**made.configuration["evaluator_settings"], **(settings or {})}
        metrics = {"label_bytes": label_bytes, "image_bytes": made.distilled_images * IMAGE}
        return made.model_copy(
            update={
                "metrics": Metrics(**{**made.metrics.model_dump(), **metrics}),
                "name": f"{made.name}{label_bytes}",
                "teacher": {} if (made.method, made.metrics.regime) == ("random", "hard") else made.teacher,
            }
        )

    return make


@pytest.fixture
def curve(student: Callable[..., Record]) -> list[Record]:
    """Random images with four label budgets, WMDD with two, and twice as many random images with soft labels."""
    return [
        student(34.0, 800, method="random", evaluator="hard"),
        student(39.0, 2000, method="random", evaluator="soft"),
        student(50.0, 37000, {"label_views": 10}, method="random"),
        student(62.0, 1112400, method="random"),
        student(48.0, 2000, evaluator="soft"),
        student(66.0, 1112400),
        student(47.0, 4000, method="random", evaluator="soft", ipc=20),
        student(55.0, 111240, method="random", ipc=1),
    ]


def test_a_line_is_a_method_and_an_ipc_over_all_its_labels(curve: list[Record]) -> None:
    data = budget.frame(budget.main_lines(budget.lines(curve)))
    assert data["panel"].unique().tolist() == ["imagenette, 64 px\nfkd v1, hard v1, soft v1, resnet18"]
    images = 100 * IMAGE
    points = {name: part[["x", "top1", "labels"]].to_numpy().tolist() for name, part in data.groupby("series")}
    assert points == {
        "random, IPC 1": [[10 * IMAGE + 111240, 55.0, "all views"]],
        "random, IPC 10": [
            [images + 800, 34.0, "hard"],
            [images + 2000, 39.0, "soft"],
            [images + 37000, 50.0, "10 views"],
            [images + 1112400, 62.0, "all views"],
        ],
        "random, IPC 20": [[2 * images + 4000, 47.0, "soft"]],
        "wmdd, IPC 10": [[images + 2000, 48.0, "soft"], [images + 1112400, 66.0, "all views"]],
    }
    assert data["series"].unique().tolist() == ["random, IPC 1", "random, IPC 10", "random, IPC 20", "wmdd, IPC 10"]


def test_hard_labels_are_in_the_panels_of_all_teachers(curve: list[Record], student: Callable[..., Record]) -> None:
    other = ("two", 90.0)
    curve += [student(40.0, 2000, method="random", evaluator="soft", teacher=other, repeat=1)]
    curve += [student(63.0, 1112400, method="random", teacher=other, repeat=1)]
    data = budget.frame(budget.main_lines(budget.lines(curve)))
    points = {
        re.search(r"teacher (\S+)", str(panel))[1]: part.loc[part["series"] == "random, IPC 10", "top1"].tolist()  # type: ignore[index]
        for panel, part in data.groupby("panel")
    }
    assert points == {"76.0": [34.0, 39.0, 50.0, 62.0], "90.0": [34.0, 40.0, 63.0]}


def test_other_settings_of_the_student_are_another_panel(curve: list[Record], student: Callable[..., Record]) -> None:
    curve += [student(35.0, 800, {"epochs": 30}, method="random", evaluator="hard", repeat=2)]
    curve += [student(45.0, 2000, {"epochs": 30}, method="random", evaluator="soft", repeat=2)]
    panels = budget.frame(budget.main_lines(budget.lines(curve))).groupby("panel")["top1"].agg(list)
    assert sorted(map(len, panels)) == [2, 8]


def test_protocols_that_differ_in_more_than_labels_have_their_own_panels(
    curve: list[Record], student: Callable[..., Record]
) -> None:
    """A student of `edc` has the settings of `hard`, but another loss, and the average of its weights is measured."""
    edc = {"ema_decay": 0.99, "ce_weight": 0.025}
    for ipc in (10, 20):
        one = student(70.0, 1112400 + ipc, edc, method="random", evaluator="hard", ipc=ipc, teacher=("teacher", 76.0))
        metrics = one.metrics.model_copy(update={"regime": "fkd"})
        curve += [one.model_copy(update={"evaluator": "edc", "metrics": metrics, "name": f"edc{ipc}"})]
    panels = budget.frame(budget.main_lines(budget.lines(curve))).groupby("panel")["top1"].agg(list)
    assert {panel.partition("\n")[2]: len(top1) for panel, top1 in panels.items()} == {
        "edc v1, resnet18": 2,
        "fkd v1, hard v1, soft v1, resnet18": 8,
    }


def test_hard_labels_do_not_join_students_without_augmentation(
    curve: list[Record], student: Callable[..., Record]
) -> None:
    """Records of augmented students do not have the setting at all."""
    for evaluator, label_bytes in (("hard", 800), ("soft", 2000)):
        curve += [student(20.0, label_bytes, {"augmentation": "none"}, method="random", evaluator=evaluator, repeat=2)]
    panels = budget.frame(budget.main_lines(budget.lines(curve))).groupby("panel")["top1"].agg(list)
    assert sorted(panels, key=len)[0] == [20.0, 20.0]
    assert sorted(map(len, panels)) == [2, 8]


def test_labels_are_named_by_what_is_stored(student: Callable[..., Record]) -> None:
    named = {
        "hard": student(1.0, 8, evaluator="hard"),
        "1 view": student(1.0, 8, {"label_views": 1}),
        "all views, top 5": student(1.0, 8, {"label_top": 5}),
        "50 views, top 5, 4 bits": student(1.0, 8, {"label_views": 50, "label_top": 5, "label_bits": 4}),
    }
    assert [budget.labels_of(record) for record in named.values()] == list(named)


def test_the_lines_with_the_most_budgets_are_drawn(curve: list[Record], student: Callable[..., Record]) -> None:
    for number in range(8):
        curve += [student(30.0 + number, 2000, method=f"m{number}", evaluator="soft")]
        curve += [student(60.0 + number, 1112400, method=f"m{number}")]
    curve += [student(99.0, 1112400, method="once"), student(46.0, 800, evaluator="hard")]
    messages: list[str] = []
    with style.look():
        (axes,) = budget.draw(curve, messages.append).axes
    names = [text.get_text() for text in axes.texts]
    assert len(names) == budget.MAX_LINES
    assert {"random, IPC 1", "random, IPC 10", "random, IPC 20", "wmdd, IPC 10"} <= set(names)
    assert messages == ["left out: 6 lines; choose with --methods and --recipe"]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["hard", "soft", "10 views", "all views"]
    ticks = [float(tick.get_text()) for tick in axes.get_xticklabels()]
    low, high = axes.get_xlim()
    assert [tick for tick in ticks if low < tick < high] == [0.2, 0.5, 1, 2]  # from 0.234 to 2.46 MB


def test_a_method_has_one_line_and_a_single_method_has_all(curve: list[Record], student: Callable[..., Record]) -> None:
    """Of several variants, that with the most points, then the plainest; its name holds no key."""
    for bn_weight, recipes in ((1.0, ("quick", "tuned", "smoke")), (2.0, ("quick", "tuned"))):
        curve.insert(0, student(49.0, 2000, evaluator="soft", bn_weight=bn_weight, recipes=recipes))
        curve.insert(0, student(67.0, 1112400, bn_weight=bn_weight, recipes=recipes))
    single = [line for line in budget.main_lines(budget.lines(curve)) if not line.is_random]
    assert [len(line.example.recipes) for line in single] == [1, 2, 3]
    curve += [student(40.0, 2000, method="kmeans", evaluator="soft"), student(60.0, 1112400, method="kmeans")]
    several = [line for line in budget.main_lines(budget.lines(curve)) if not line.is_random]
    assert [(line.example.method, line.example.recipes) for line in several] == [
        ("wmdd", ["quick"]),
        ("kmeans", ["quick"]),
    ]


def test_another_recipe_is_named(curve: list[Record], student: Callable[..., Record]) -> None:
    curve += [student(48.0, 2000, method="sre2l", evaluator="soft", recipes=("quick", "tuned"))]
    curve += [student(60.0, 1112400, method="sre2l", recipes=("quick", "tuned"))]
    names = budget.frame(budget.main_lines(budget.lines(curve)))["series"].unique()
    assert {"wmdd, IPC 10", "sre2l, quick+tuned, IPC 10"} <= set(names)


def test_one_budget_makes_no_curve(student: Callable[..., Record]) -> None:
    alone = [student(60.0, 1112400, method="random"), student(61.0, 1112400)]
    with pytest.raises(DDBenchError, match=r"needs a second label budget of the protocol fkd; e.g. .*label_views=10"):
        budget.draw(alone, pytest.fail)
