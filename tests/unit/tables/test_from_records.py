"""Tables of records alone: which records are a cell's own, and which are in blocks of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

import ddbench
from ddbench.api.table import Cell, TableSpec
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.request import Request
from ddbench.results import records
from ddbench.results.measures import Measured
from ddbench.tables.frame import build_frame
from ddbench.tables.layout import text_blocks
from ddbench.tables.rows import FRAME_COLUMNS, SETTING_COLUMNS

if TYPE_CHECKING:
    from conftest import Shell
    from ddbench.config.experiment import Experiment
    from ddbench.results.records import Record
    from tests.unit.tables.conftest import Stored

OTHER = {"name": "convnet-bn-d3", "top1": 91.0, "key": "t", "digest": "another"}
"""Weights of the same recipe, trained with another number of threads."""


def measured(frame: pd.DataFrame) -> list[list[float]]:
    """The top-1 of WMDD's own cell, setting by setting."""
    of_row = frame[(frame["state"] == "measured") & (frame["row"] == "wasserstein + pcbn")]
    return [sorted(part["top1"]) for _, part in of_row.groupby(list(SETTING_COLUMNS), sort=False, dropna=False)]


def test_records_fill_the_cell_that_they_are_of(stored: Stored) -> None:
    ce = stored.experiment(assignments=("method.feature_loss=cross-entropy",))
    sets = [
        stored.record(
            stored.experiment().model_copy(update={"repeat": repeat, "student_seed": student}),
            50.0 + repeat + student / 2,
        )
        for repeat in (0, 1)
        for student in (0, 1)
    ]
    frame = stored.frame(*sets, stored.record(ce, 40.0), stored.record(stored.experiment(methods=("random",)), 30.0))
    by_row = {row: sorted(part["top1"].dropna()) for row, part in frame[frame["dataset"] == "digits"].groupby("row")}
    assert by_row == {
        "wasserstein + pcbn": [50.0, 50.5, 51.0, 51.5],
        "cross-entropy + pcbn": [40.0],
        "wasserstein + bn": [],
        "cross-entropy + bn": [],
    }
    assert list(frame.columns[: len(FRAME_COLUMNS)]) == list(FRAME_COLUMNS)
    # The datasets of the paper's table are there, never run.
    assert set(frame.loc[frame["dataset"] != "digits", "state"]) == {"never run"}
    (block,) = text_blocks(stored.registry.table("ablation"), frame[frame["dataset"] == "digits"])
    assert block.heading == "digits, 10 classes, 16 px, recipe quick, teacher convnet-bn-d3, cpu fp32"
    assert block.cells["IPC 10"].tolist() == ["50.75 ± 0.65 (4 sets)", "40.00 (1 set)", "never run", "never run"]


def test_measures_are_columns_after_all_others(stored: Stored) -> None:
    ece = Measured(version="1", settings={"bins": 15}, values={"ece": 4.5}, seconds=1.0)
    made = stored.record(stored.experiment(), 50.0).model_copy(update={"measures": {"ece": ece}})
    frame = stored.frame(made, stored.record(stored.experiment().model_copy(update={"student_seed": 1}), 51.0))
    assert list(frame.columns[: len(FRAME_COLUMNS) + 1]) == [*FRAME_COLUMNS, "measure.ece"]
    values = frame[frame["state"] == "measured"].set_index("top1")["measure.ece"]
    assert values[50.0] == 4.5
    assert pd.isna(values[51.0])


def test_students_of_other_first_layers_are_in_blocks_of_their_own(stored: Stored) -> None:
    """Without a teacher in its labels, a student's first layers are still those of its recipe's teacher."""
    hard = {"methods": ("random",), "evaluators": ("hard",)}
    made = [stored.experiment(**hard, assignments=(f"teacher.stem={stem}",)) for stem in ("auto", "imagenet")]
    actual = [stored.record(stored.experiment(assignments=("teacher.stem=auto",)), 40.0)]
    for number, each in enumerate(made):
        of_labels = stored.record(each.model_copy(update={"student_seed": number}), 50.0 + 10 * number, teacher={})
        actual.append(of_labels.model_copy(update={"metrics": of_labels.metrics.model_copy(update={"regime": "hard"})}))
    for each in actual:
        records.write(each, stored.folder / "records")
    cells = [Cell("random", "random", "digits", 10, evaluator="hard"), Cell("wmdd", "wmdd", "digits", 10)]
    spec = TableSpec("stems", "", lambda query: cells)
    frame = build_frame(spec, Request((), (), ()), stored.registry, None, stored.folder)
    texts = [block.cells["IPC 10"].tolist() for block in text_blocks(spec, frame)]
    assert texts == [["50.00 (1 set) hard v1", "40.00 (1 set)"], ["60.00 (1 set)", "never run"]]


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({"assignments": ("method.bn_form=norm",)}, {}),
        ({"assignments": ("method.steps=299",)}, {}),
        ({"assignments": ("evaluator.epochs=299",)}, {}),
        ({"assignments": ("evaluator.select_share=0.2",)}, {}),
        ({"assignments": ("statistics.variance=batch-mean",)}, {}),
        ({"assignments": ("distill.jpeg_quality=75",)}, {}),
        ({"students": ("convnet-d3",)}, {}),
        ({"evaluators": ("hard",)}, {}),
        ({}, {"method_version": "0"}),
        ({}, {"evaluator_version": "0"}),
    ],
)
def test_what_differs_in_method_or_protocol_is_in_no_cell(
    stored: Stored, options: dict[str, Any], changes: dict[str, Any]
) -> None:
    other = stored.record(stored.experiment(**options), 90.0, **changes)
    assert measured(stored.frame(other)) == []
    assert measured(stored.frame(stored.record(stored.experiment(), 50.0))) == [[50.0]]


@pytest.mark.parametrize(
    ("options", "changes", "says"),
    [
        ({"image_size": 8}, {}, ", 8 px, "),
        ({"assignments": ("data.holdout=0.1",)}, {}, "measured on held-out training images (0.1)"),
        ({"assignments": ("teacher.epochs=5",)}, {"teacher": OTHER}, "recipe quick --set teacher.epochs=5, "),
        ({"assignments": ("data.resize=bicubic",)}, {}, "recipe quick --set data.resize=bicubic, "),
        ({"precision": "bf16"}, {}, ", cpu bf16"),
        ({"assignments": ("teacher.checkpoint=other.pt",)}, {"teacher": OTHER}, "(checkpoint other.pt)"),
        ({}, {"data": {"fingerprint": "another"}}, "(setting "),
        ({}, {"teacher": OTHER}, "(setting "),
        ({}, {"classes": 9}, ", 9 classes, "),
        ({}, {"versions": {"numerics": "views=0 models=1"}}, "other numerics: views=0"),
    ],
)
def test_what_differs_in_the_setting_is_in_a_block_of_its_own(
    stored: Stored, options: dict[str, Any], changes: dict[str, Any], says: str
) -> None:
    other = stored.record(stored.experiment(**options), 90.0, **changes)
    frame = stored.frame(stored.record(stored.experiment(), 50.0), other)
    assert sorted(measured(frame)) == [[50.0], [90.0]]
    digits = text_blocks(stored.registry.table("ablation"), frame[frame["dataset"] == "digits"])
    shown = {block.heading: block.cells["IPC 10"].iloc[0] for block in digits}
    assert sorted(shown.values()) == ["50.00 (1 set)", "90.00 (1 set)"]
    (heading,) = [heading for heading, text in shown.items() if text == "90.00 (1 set)"]
    assert says in heading


def test_two_checkpoints_of_one_name_are_two_teachers_and_hard_labels_need_neither(stored: Stored) -> None:
    given = stored.experiment(assignments=("teacher.checkpoint=a.pt",))
    hard = stored.experiment(assignments=("teacher.checkpoint=a.pt",), methods=("random",), evaluators=("hard",))
    frame = stored.frame(
        stored.record(given, 50.0),
        stored.record(given, 90.0, teacher={"name": "resnet18", "top1": 90.0, "key": "u"}),
        stored.record(hard, 30.0, teacher={}),
        name="regimes",
    )
    lines = frame[frame["state"] == "measured"]
    parts = [sorted(part["top1"]) for _, part in lines.groupby(list(SETTING_COLUMNS), dropna=False)]
    assert sorted(parts) == [[30.0, 50.0], [30.0, 90.0]]


def test_a_record_from_before_a_setting_existed_is_one_of_its_default(stored: Stored) -> None:
    def aged(made: Experiment) -> Record:
        configuration = json.loads(made.model_dump_json())
        for section, name in (
            ("data", "holdout"),
            ("method_settings", "feature_loss"),
            ("method_settings", "regulariser"),
            ("method_settings", "initial"),
            ("evaluator_settings", "select_share"),
        ):
            configuration[section].pop(name, None)
        return stored.record(
            made, 60.0 + made.student_seed, configuration=configuration, name=f"old-{made.student_seed}"
        )

    old = [aged(stored.experiment().model_copy(update={"student_seed": seed})) for seed in (1, 2)]
    assert measured(stored.frame(stored.record(stored.experiment(), 50.0), *old)) == [[50.0, 61.0, 62.0]]


@pytest.mark.parametrize("section", ["method_settings", "evaluator_settings", "data", "teacher"])
def test_a_record_with_a_setting_that_is_no_more_is_in_no_cell(stored: Stored, section: str) -> None:
    configuration = json.loads(stored.experiment().model_dump_json())
    configuration[section]["gone"] = 1
    assert measured(stored.frame(stored.record(stored.experiment(), 90.0, configuration=configuration))) == []


def test_of_one_set_and_student_the_newest_record_counts(stored: Stored) -> None:
    newer = stored.record(stored.experiment(), 55.0, created="2026-02-01T00:00:00+00:00")
    assert measured(stored.frame(newer, stored.record(stored.experiment(), 50.0))) == [[55.0]]
    # Base seed 1, first student, and base seed 0, second student, are the same student, but not the same set.
    moved = stored.experiment().model_copy(update={"seed": 1})
    assert measured(stored.frame(stored.record(moved, 70.0))) == [[55.0, 70.0]]


def test_records_alone_are_what_was_asked_for(stored: Stored) -> None:
    five = stored.experiment(assignments=("teacher.epochs=5",))
    steps = stored.experiment(assignments=("method.steps=299",))
    made = (stored.experiment(), five, steps, stored.experiment(image_size=8))
    teachers = ({}, {"teacher": OTHER}, {}, {})
    actual = [
        stored.record(each, top1, **teacher)
        for each, top1, teacher in zip(made, (50.0, 60.0, 70.0, 80.0), teachers, strict=True)
    ]
    assert sorted(measured(stored.frame(*actual))) == [[50.0], [60.0], [80.0]]
    assert measured(stored.frame(assignments=("teacher.epochs=5",))) == [[60.0]]
    assert measured(stored.frame(assignments=("wmdd.steps=299",))) == [[70.0]]
    assert measured(stored.frame(image_size=8)) == [[80.0]]
    assert measured(stored.frame(recipes=("quick", "released"))) == []
    assert measured(stored.frame(device="cuda")) == []
    assert measured(stored.frame(precision="bf16")) == []
    assert measured(stored.frame(arch="convnet-d3", methods=("wmdd",))) == []
    # Without a budget the default one is meant, which for digits is quick.
    assert sorted(measured(stored.frame(recipes=("released",)))) == []
    with pytest.raises(DDBenchError, match="unknown recipe 'quik'; did you mean 'quick'"):
        stored.frame(recipes=("quik",))


def test_records_bring_their_own_ipcs_and_no_empty_columns(stored: Stored) -> None:
    frame = stored.frame(
        stored.record(stored.experiment(ipcs=(2,)), 50.0),
        stored.record(stored.experiment(ipcs=(3,), methods=("random",)), 20.0),
    )
    assert set(frame.loc[frame["dataset"] == "digits", "ipc"]) == {2}
    assert set(frame.loc[frame["dataset"] == "imagenette", "ipc"]) == {10}
    assert set(stored.frame(ipcs=(3, 4), datasets=("digits",))["ipc"]) == {3, 4}


def test_records_of_a_folder_of_images_go_by_its_name(stored: Stored) -> None:
    made = stored.experiment(datasets=("imagefolder:/somewhere/cats",))
    frame = stored.frame(stored.record(made, 50.0, dataset="imagefolder:cats"))
    assert measured(frame) == [[50.0]]


def test_a_broken_record_is_named_and_the_table_is_there(stored: Stored, shell: Shell) -> None:
    records.write(stored.record(stored.experiment(), 50.0), shell.results / "records")
    (shell.results / "records" / "broken.json").write_text("{")
    outcome = shell("table", "sliced", "--format", "json")
    assert outcome.code == 0, outcome.err
    assert [line["top1"] for line in json.loads(outcome.out) if line["top1"] is not None] == [50.0]
    message, missing = outcome.errors
    assert "broken.json is not a record" in message
    assert missing == "7 cells without a number; --run needs data: --dataset NAME, --data-dir FOLDER"


def test_a_folder_can_be_given_as_text(stored: Stored, tmp_path: Path) -> None:
    stored.frame(stored.record(stored.experiment(), 50.0))
    assert ddbench.table("comparison", ipc=10, results_dir=str(tmp_path))["top1"].dropna().tolist() == [50.0]
