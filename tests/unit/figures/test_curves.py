"""Top-1 over IPC and over lambda: which records are one point, their means by hand, and the lines that are drawn."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pandas as pd
import pytest

from ddbench.core.errors import DDBenchError
from ddbench.evaluators.protocols import HardLabels, KnowledgeDistillation
from ddbench.figures import curves, regularisation, scaling
from ddbench.figures.selecting import Filters, command_of, select
from ddbench.results import records
from ddbench.results.labels import disambiguate_labels
from ddbench.results.means import mean_top1
from ddbench.results.records import Record

if TYPE_CHECKING:
    from conftest import Shell

PROTOCOLS = {"fkd": KnowledgeDistillation().model_dump(), "hard": HardLabels().model_dump()}


def record(
    top1: float,
    method: str = "wmdd",
    ipc: int = 10,
    seed: int = 0,
    repeat: int = 0,
    evaluator: str = "fkd",
    teacher: tuple[str, float] = ("one", 76.0),
    bn_weight: float = 10.0,
    recipes: tuple[str, ...] = ("quick",),
    **changes: Any,
) -> Record:
    """A record of ImageNette at 64 px; what is not said is the same for all."""
    made = {"bn_weight": bn_weight, "steps": 500} if method == "wmdd" else {}
    key = f"{crc32(repr((method, ipc, seed, repeat, evaluator, teacher, bn_weight, recipes)).encode()):08x}"
    values: dict[str, Any] = {
        "name": f"{method}-imagenette-ipc{ipc}-{key}",
        "created": "2026-01-01T00:00:00+00:00",
        "method": method,
        "method_version": "1",
        "dataset": "imagenette",
        "classes": 10,
        "ipc": ipc,
        "image_size": 64,
        "recipes": list(recipes),
        "evaluator": evaluator,
        "evaluator_version": "1",
        "student": "resnet18",
        "seed": 0,
        "repeat": repeat,
        "student_seed": seed,
        "metrics": {
            "top1_last": top1,
            "per_class": [top1],
            "student_steps": 300,
            "label_bytes": 1,
            "image_bytes": 1,
            "regime": evaluator,
        },
        "teacher": {"name": "resnet18", "top1": teacher[1], "key": teacher[0]},
        "feature_transport_cost": None,
        "data": {},
        "distilled_digest": f"{method} {ipc} {repeat} {bn_weight} {teacher[0]}",
        "distilled_images": 10 * ipc,
        "keys": {"teacher": [teacher[0]], **({"statistics": ["all"]} if method == "wmdd" else {})},
        "configuration": {
            "dataset": "imagenette",
            "ipc": ipc,
            "teacher": {},
            "student_stem": "imagenet",
            "changed": [],
            "data": {"image_size": 64, "stored_size": 72, "resize": "bilinear", "skip_corrupt": False, "holdout": 0.0},
            "statistics": {"variance": "exact", "batch_size": 100},
            "distill": {"jpeg_quality": None, "checkpoint_every": 50},
            "runtime": {"device": "cpu", "precision": "bf16"},
            "method_settings": made,
            "evaluator_settings": PROTOCOLS[evaluator],
        },
        "seconds": {"evaluate": 1.0},
        "seconds_per_iteration": None,
        "peak_memory": {"device": 0, "resident": 1},
        "device": {"type": "cpu", "name": "a CPU", "threads": 1},
        "versions": {"numerics": "models=1 training=1 transport=1 views=1"},
        "git_commit": None,
    }
    return Record(**{**values, **changes})


def points(frame: pd.DataFrame) -> dict[tuple[str, float], tuple[float, int, int]]:
    """(series, x) -> top-1, students, sets."""
    return {(row.series, row.x): (row.top1, row.n, row.sets) for row in frame.itertuples()}


def test_students_that_differ_in_seeds_alone_are_one_point() -> None:
    frame = mean_top1(
        [
            record(60.0, seed=0),
            record(62.0, seed=1),
            record(67.0, repeat=1),
            record(62.0, seed=1, name="asked-for-again-11111111"),
            record(40.0, ipc=1),
            record(50.0, method="random"),
        ],
        "ipc",
    )
    assert points(frame) == {
        ("random", 10.0): (50.0, 1, 1),
        ("wmdd", 1.0): (40.0, 1, 1),
        ("wmdd", 10.0): (63.0, 3, 2),
    }
    assert list(frame["panel"].unique()) == ["imagenette, 64 px\nfkd v1, resnet18"]
    of_wmdd = frame[(frame["series"] == "wmdd") & (frame["x"] == 10)].iloc[0]
    assert of_wmdd["deviation"] == pytest.approx(13**0.5)  # (9 + 1 + 16) / 2
    assert frame[frame["n"] == 1]["deviation"].isna().all()


@pytest.mark.parametrize(
    ("other", "titles"),
    [
        ({"evaluator": "hard"}, {"fkd v1, resnet18", "hard v1, resnet18"}),
        ({"student": "resnet50"}, {"fkd v1, resnet18", "fkd v1, resnet50"}),
        (
            {"teacher": ("two", 81.25)},
            {"fkd v1, resnet18, teacher 76.0 %", "fkd v1, resnet18, teacher 81.2 %"},
        ),
    ],
)
def test_what_cannot_be_compared_never_shares_a_panel(other: dict[str, Any], titles: set[str]) -> None:
    frame = mean_top1([record(50.0, method="random"), record(60.0, method="random", **other)], "ipc")
    assert {panel.partition("\n")[2] for panel in frame["panel"]} == titles
    assert sorted(frame["top1"]) == [50.0, 60.0]


def test_two_settings_of_a_protocol_are_two_panels_that_say_which() -> None:
    changed = record(60.0, method="random")
    changed.configuration["evaluator_settings"] = {**PROTOCOLS["fkd"], "temperature": 4.0}
    frame = mean_top1([record(50.0, method="random"), changed], "ipc")
    assert [panel.rpartition(", ")[2] for panel in frame["panel"]] == ["temperature 4", "temperature 20"]


def test_a_method_is_called_by_what_tells_its_records_apart() -> None:
    found = [
        record(1.0),
        record(2.0, bn_weight=100.0),
        record(3.0, recipes=("quick", "released"), bn_weight=1.0),
        record(4.0, method="random"),
    ]
    frame = mean_top1(found, "ipc")
    assert dict(zip(frame["top1"], frame["series"], strict=True)) == {
        1.0: "wmdd, quick, bn_weight 10",
        2.0: "wmdd, quick, bn_weight 100",
        3.0: "wmdd, quick+released",
        4.0: "random",
    }


def test_what_no_setting_tells_apart_bears_the_key_of_a_record() -> None:
    older, newer = record(1.0), record(2.0, seed=1)
    newer.configuration["method_settings"]["a_setting_since"] = 1.0
    frame = mean_top1([older, newer], "ipc")
    keys = {one.metrics.top1_last: one.name.rpartition("-")[2] for one in (older, newer)}
    assert {row.top1: row.series for row in frame.itertuples()} == {top1: f"wmdd [{key}]" for top1, key in keys.items()}
    assert "In brackets: a record's key" in curves.measurement_note(frame)


def test_three_facts_are_too_many_for_a_label() -> None:
    facts = [{"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 2, "c": 2}]
    found = [record(1.0, name="x-1"), record(2.0, name="x-2")]
    assert disambiguate_labels(["m", "m"], facts, found) == ["m [1]", "m [2]"]
    assert disambiguate_labels(["m", "m"], [{**one, "c": 0} for one in facts], found) == ["m, a 1, b 1", "m, a 2, b 2"]
    assert disambiguate_labels(["m", "n"], facts, found) == ["m", "n"]


def test_the_papers_own_numbers_stand_beside_its_method_and_protocol_alone() -> None:
    found = [record(60.0), record(50.0, method="random"), record(40.0, evaluator="hard")]
    frame = scaling.frame(found)
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
def test_other_conditions_than_the_papers_get_no_published_curve(other: dict[str, Any]) -> None:
    assert not scaling.frame([record(60.0, **other)])["published"].any()


def test_lambda_is_over_the_setting_and_keeps_everything_else_apart() -> None:
    found = [
        record(30.0, bn_weight=0.1),
        record(50.0, bn_weight=10.0),
        record(54.0, bn_weight=10.0, seed=1),
        record(20.0, bn_weight=0.0),
        record(45.0, bn_weight=10.0, ipc=1),
        record(50.0, method="random"),
    ]
    frame = regularisation.frame(found)
    assert set(frame["series"]) == {"wmdd"}
    by_panel = {panel: points(part) for panel, part in frame.groupby("panel")}
    assert by_panel == {
        "imagenette, 64 px, IPC 10\nfkd v1, resnet18": {("wmdd", 0.1): (30.0, 1, 1), ("wmdd", 10.0): (52.0, 2, 1)},
        "imagenette, 64 px, IPC 1\nfkd v1, resnet18": {("wmdd", 10.0): (45.0, 1, 1)},
    }
    told: list[str] = []
    kept = curves.with_two_points(frame, "nothing", told.append)
    assert set(kept["panel"]) == {"imagenette, 64 px, IPC 10\nfkd v1, resnet18"}
    assert told == ["left out, measured at 10 alone: imagenette, 64 px, IPC 1, fkd v1, resnet18"]


def test_a_sweep_that_was_set_is_no_other_recipe() -> None:
    swept, other = record(1.0, bn_weight=1.0), record(2.0, bn_weight=2.0)
    swept.configuration["changed"] = ["method.bn_weight", "teacher.checkpoint"]
    other.configuration["changed"] = ["method.bn_weight", "method.steps"]
    assert [set(mean_top1([one], regularisation.SETTING)["recipe"]) for one in (swept, other)] == [
        {"quick"},
        {"quick --set"},
    ]


@pytest.mark.parametrize(
    ("draw", "needed"),
    [
        (scaling.draw, "needs a second number of images per class; e.g. ddbench run --method random"),
        (regularisation.draw, "needs records at a second value of method.bn_weight; e.g. ddbench run --method wmdd"),
    ],
)
def test_one_value_makes_no_curve(draw: Callable[..., object], needed: str) -> None:
    with pytest.raises(DDBenchError, match=re.escape(needed)):
        draw([record(50.0, method="random")], print)


def test_records_are_selected_by_every_filter(tmp_path: Path) -> None:
    found = [record(1.0), record(2.0, ipc=1), record(3.0, recipes=("quick", "lloyd")), record(4.0, method="random")]
    for one in found:
        records.write(one, tmp_path)

    def chosen(**filters: Any) -> set[float]:
        return {one.metrics.top1_last for one in select(tmp_path, Filters(**filters), pytest.fail)}

    assert chosen() == {1.0, 2.0, 3.0, 4.0}
    assert chosen(ipc=1) == {2.0}
    assert chosen(recipes=("quick",)) == {1.0, 2.0, 4.0}
    assert chosen(recipes=("quick", "lloyd")) == {3.0}
    assert chosen(methods=("random", "wmdd"), ipc=10, image_size=64, dataset="imagenette") == {1.0, 3.0, 4.0}
    with pytest.raises(DDBenchError, match=r"no record .*: ddbench run --method random --dataset digits --ipc 50$"):
        chosen(ipc=50)
    command = r"no record of method 'dm' .*: ddbench run --method dm --dataset imagenette --ipc 10 --recipe quick$"
    with pytest.raises(DDBenchError, match=command):
        chosen(methods=("random", "dm"), dataset="imagenette", recipes=("quick",))


def test_the_command_of_a_record_holds_its_recipes_and_what_was_set() -> None:
    one = record(1.0, recipes=("quick", "lloyd"), bn_weight=0.5)
    one.configuration["changed"] = ["method.bn_weight", "evaluator.epochs", "data.stored_size"]
    assert command_of(one) == (
        "ddbench run --method wmdd --dataset imagenette --ipc 10 --image-size 64 --recipe quick --recipe lloyd"
        " --set method.bn_weight=0.5 --set evaluator.epochs=300 --set data.stored_size=72"
    )


def heights(svg: str, line: str) -> list[float]:
    """The y of a line's points, from above, as the SVG draws them."""
    path = re.search(rf'<g id="{line}">\s*<path d="([^"]*)"', svg)
    assert path is not None, line
    return [float(y) for _, y in re.findall(r"[ML] (\S+) (\S+)", path[1])]


def test_the_command_draws_a_line_for_each_method(shell: Shell) -> None:
    shell.run("--method", "random", "--method", "k-center", "--dataset", "digits", "--ipc", "1", "--ipc", "3")
    drawn = shell("figure", "scaling", "--methods", "random,k-center")
    assert drawn.code == 0, drawn.err
    assert drawn.out.splitlines() == [f"written: results/figures/scaling.{form}" for form in ("svg", "png")]
    svg = (shell.results / "figures" / "scaling.svg").read_text(encoding="utf-8")
    for text in (
        "digits, 16 px",
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


def test_the_command_draws_lambda_with_the_papers_claim(shell: Shell) -> None:
    run = ("--method", "wmdd", "--dataset", "digits", "--ipc", "1", "--set", "method.steps=2")
    for value in ("0.5", "50"):
        shell.run(*run, "--set", f"method.bn_weight={value}")
    missing = shell("figure", "lambda", "--ipc", "2")
    assert missing.code == 2
    assert missing.errors[-1].endswith("make one: ddbench run --method random --dataset digits --ipc 2")
    drawn = shell("figure", "lambda", "--ipc", "1")
    assert drawn.code == 0, drawn.err
    svg = (shell.results / "figures" / "lambda.svg").read_text(encoding="utf-8")
    for text in ("\u03bb (method.bn_weight)", "0.5", "50", "wmdd", "digits, 16 px, IPC 1"):
        assert f">{text}</" in svg
    assert len(heights(svg, "mean-0")) == 2
    claim = " ".join(re.sub(r"<[^>]*>", " ", svg).split())
    assert "then is stable from about 10" in claim
    assert "Recipe: smoke --set" in claim
