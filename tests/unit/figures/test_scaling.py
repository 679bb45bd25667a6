"""Top-1 over IPC: published curves and the lines that are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from ddbench.evaluators.protocols import HardLabels, KnowledgeDistillation
from ddbench.figures import curves, scaling, style
from ddbench.figures.selecting import Filters, select
from ddbench.results.records import Record

if TYPE_CHECKING:
    from conftest import Shell


PROTOCOLS = {"fkd": KnowledgeDistillation().model_dump(), "hard": HardLabels().model_dump()}


def test_the_papers_own_numbers_stand_beside_its_method_and_protocol_alone(record: Callable[..., Record]) -> None:
    actual = [record(60.0), record(50.0, method="random"), record(40.0, evaluator="hard")]
    frame = scaling.frame(actual)
    theirs = frame[frame["published"]]
    # Table 1 of the paper: ImageNette, WMDD.
    assert dict(zip(theirs["x"], theirs["top1"], strict=True)) == {1: 40.2, 10: 64.8, 50: 83.5, 100: 87.1}
    assert dict(zip(theirs["x"], theirs["deviation"], strict=True)) == {1: 0.6, 10: 0.4, 50: 0.3, 100: 0.3}
    assert set(theirs["panel"]) == {"imagenette, 64 px\nfkd v1, resnet18"}
    assert set(theirs["series"]) == {"wmdd, published"}
    assert sorted(frame.loc[~frame["published"], "top1"]) == [40.0, 50.0, 60.0]
    text = scaling.caption(frame)
    assert "published, not measured here: WMDD paper, Table 1 (imagenette 224 px" in text
    assert "1 student on 1 distilled set a point. Recipe: quick." in text


@pytest.mark.parametrize("other", [{"classes": 9}, {"student": "resnet50"}, {"method": "random"}])
def test_other_conditions_than_the_papers_get_no_published_curve(
    other: dict[str, Any], record: Callable[..., Record]
) -> None:
    assert not scaling.frame([record(60.0, **other)])["published"].any()


def test_by_default_eight_lines_of_methods_are_drawn_and_named_in_words(record: Callable[..., Record]) -> None:
    actual = [record(50.0 + n, method=f"m{n}", ipc=ipc) for n in range(12) for ipc in (1, 10)]
    actual += [record(60.0, bn_weight=weight, ipc=ipc) for weight in (1.0, 10.0) for ipc in (1, 10)]
    actual += [record(61.0, bn_weight=10.0, ipc=50), record(99.0, bn_weight=3.0, ipc=10)]
    actual += [record(70.0, method="m0", evaluator="hard")]
    messages: list[str] = []
    with style.look():
        figure = scaling.draw(actual, messages.append)
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.texts]
    # The paper's line counts too. The best-measured recipe of wmdd is drawn, not that with the highest accuracy.
    assert len(names) == len(axes.containers) == curves.MAX_LINES
    assert {"wmdd", "wmdd, published", "m0"} <= set(names)
    assert not [name for name in names if "[" in name]
    assert figure.legends == []
    (line,) = messages
    assert line.startswith("left out: ")
    assert line.endswith("and of other settings; choose with --methods and --recipe")
    drawn = scaling.frame(scaling.chosen_records(actual)[0])
    assert sorted(drawn.loc[(drawn["method"] == "wmdd") & ~drawn["published"], "x"]) == [1, 10, 50]


def test_a_single_method_has_a_line_for_each_of_its_ways(record: Callable[..., Record]) -> None:
    actual = [record(60.0, bn_weight=weight, ipc=ipc) for weight in (1.0, 10.0) for ipc in (1, 10)]
    frame = scaling.frame(scaling.chosen_records(actual)[0])
    assert set(frame.loc[~frame["published"], "series"]) == {"wmdd, bn_weight 1", "wmdd, bn_weight 10"}


@pytest.mark.slow
def test_the_command_draws_a_line_for_each_method(heights: Callable[[str, str], list[float]], shell: Shell) -> None:
    shell.run("--method", "random", "--method", "k-center", "--dataset", "digits", "--ipc", "1", "--ipc", "3")
    drawn = shell("figure", "scaling", "--methods", "random,k-center")
    assert drawn.code == 0, drawn.err
    assert drawn.out.splitlines() == [f"written: results/figures/scaling.{form}" for form in ("svg", "png")]
    svg = (shell.results / "figures" / "scaling.svg").read_text(encoding="utf-8")
    for text in (
        "digits, 8 px",
        "fkd v1, convnet-bn-d3",
        "images per class",
        "top-1 accuracy (%)",
        "k-center",
        "random",
    ):
        assert f">{text}</" in svg
    assert "Recipe: smoke" in svg
    frame = scaling.frame(select(shell.results / "records", Filters(), pytest.fail)).sort_values("x")
    names = list(frame.sort_values(["series"])["series"].unique())
    assert names == ["k-center", "random"]
    ys = {name: heights(svg, f"mean-{number}") for number, name in enumerate(names)}
    top1 = {name: list(frame.loc[frame["series"] == name, "top1"]) for name in names}
    # Every point lies where its accuracy is on one and the same axis.
    flat = [(a, y) for name in names for a, y in zip(top1[name], ys[name], strict=True)]
    (low, low_y), (high, high_y) = min(flat), max(flat)
    for accuracy, y in flat:
        assert y == pytest.approx(low_y + (accuracy - low) / (high - low) * (high_y - low_y), abs=0.01)
    assert high_y < low_y
    before = {form: (shell.results / "figures" / f"scaling.{form}").read_bytes() for form in ("svg", "png")}
    assert shell("figure", "scaling", "--output", "again").code == 0
    assert all((shell.root / f"again.{form}").read_bytes() == bytes for form, bytes in before.items())
