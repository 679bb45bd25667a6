"""Tables of records alone: which records are a cell's own, and what stands beside the paper's numbers."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pandas as pd
import pytest

import ddbench
from ddbench.api.evaluator import Metrics
from ddbench.api.table import Cell, TableSpec
from ddbench.config.experiment import Experiment
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.results import provenance, records
from ddbench.results.measures import Measured
from ddbench.results.records import Record
from ddbench.tables.frame import build_frame
from ddbench.tables.layout import text_blocks
from ddbench.tables.rows import FRAME_COLUMNS, SETTING_COLUMNS

if TYPE_CHECKING:
    from conftest import Shell

REGISTRY = PluginRegistry()


OTHER = {"name": "convnet-bn-d3", "top1": 91.0, "key": "t", "digest": "another"}
"""Weights of the same recipe, trained with another number of threads."""


def request_of(**fields: Any) -> Request:
    return Request(**{"methods": (), "datasets": (), "ipcs": (), **fields})


@functools.cache
def experiment(**fields: Any) -> Experiment:
    """WMDD's on digits at IPC 10 under `quick`, but for `fields`."""
    request = {"methods": ("wmdd",), "datasets": ("digits",), "ipcs": (10,), "device": "cpu", "precision": "fp32"}
    (actual,) = experiments(Request(**{**request, "recipes": ("quick",), **fields}), REGISTRY)
    return actual


def record(made: Experiment, top1: float, **changes: Any) -> Record:
    """What a run of `made` would leave, with `top1`."""
    evaluation = f"{crc32(f'{made.model_dump_json()} {top1}'.encode()):08x}"
    metrics = Metrics(top1_last=top1, per_class=[top1], student_steps=1, regime="soft", label_bytes=0, image_bytes=0)
    values_of = {
        "name": f"{made.method_name}-{evaluation}",
        "created": "2026-01-01T00:00:00+00:00",
        "method": made.method_name,
        "method_version": made.method.version,
        "dataset": made.dataset,
        "classes": 10,
        "ipc": made.ipc,
        "image_size": made.data.image_size,
        "recipes": list(made.recipes),
        "evaluator": made.evaluator_name,
        "evaluator_version": made.evaluator.version,
        "student": made.student,
        "seed": made.seed,
        "repeat": made.repeat,
        "student_seed": made.student_seed,
        "metrics": metrics,
        "teacher": {"name": made.teacher.arch, "top1": 90.0, "key": "t", "digest": "t"},
        "feature_transport_cost": 1.0,
        "data": {"fingerprint": "f"},
        "distilled_digest": evaluation,
        "distilled_images": 100,
        "keys": {"evaluate": [evaluation], **({"statistics": ["s"]} if made.method.needs_teacher else {})},
        "configuration": json.loads(made.model_dump_json()),
        "seconds": {"evaluate": 1.0, "distill": 3600.0},
        "seconds_per_iteration": None,
        "peak_memory": {"device": 0, "resident": 1},
        "device": {"type": "cpu", "name": "a CPU", "threads": 1},
        "versions": provenance.provenance()["versions"],
        "git_commit": None,
    }
    return Record(**{**values_of, **changes})


Write = Callable[..., pd.DataFrame]


@pytest.fixture
def stored(tmp_path: Path) -> Write:
    """Writes records, and reads a table of them alone."""

    def write(*actual: Record, name: str = "ablation", **fields: Any) -> pd.DataFrame:
        for each in actual:
            records.write(each, tmp_path / "records")
        return build_frame(REGISTRY.table(name), request_of(**fields), REGISTRY, None, tmp_path)

    return write


def measured(frame: pd.DataFrame) -> list[list[float]]:
    """The top-1 of WMDD's own cell, setting by setting."""
    of_row = frame[(frame["state"] == "measured") & (frame["row"] == "wasserstein + pcbn")]
    return [sorted(part["top1"]) for _, part in of_row.groupby(list(SETTING_COLUMNS), sort=False, dropna=False)]


def test_records_fill_the_cell_that_they_are_of(stored: Write) -> None:
    ce = experiment(assignments=("method.feature_loss=cross-entropy",))
    sets = [
        record(experiment().model_copy(update={"repeat": repeat, "student_seed": student}), 50.0 + repeat + student / 2)
        for repeat in (0, 1)
        for student in (0, 1)
    ]
    frame = stored(*sets, record(ce, 40.0), record(experiment(methods=("random",)), 30.0))
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
    (block,) = text_blocks(REGISTRY.table("ablation"), frame[frame["dataset"] == "digits"])
    assert block.heading == "digits, 10 classes, 16 px, recipe quick, teacher convnet-bn-d3, cpu fp32"
    assert block.cells["IPC 10"].tolist() == ["50.75 ± 0.65 (4 sets)", "40.00 (1 set)", "never run", "never run"]


def test_measures_are_columns_after_all_others(stored: Write) -> None:
    ece = Measured(version="1", settings={"bins": 15}, values={"ece": 4.5}, seconds=1.0)
    made = record(experiment(), 50.0).model_copy(update={"measures": {"ece": ece}})
    frame = stored(made, record(experiment().model_copy(update={"student_seed": 1}), 51.0))
    assert list(frame.columns[: len(FRAME_COLUMNS) + 1]) == [*FRAME_COLUMNS, "measure.ece"]
    values = frame[frame["state"] == "measured"].set_index("top1")["measure.ece"]
    assert values[50.0] == 4.5
    assert pd.isna(values[51.0])


def test_students_of_other_first_layers_are_in_blocks_of_their_own(tmp_path: Path) -> None:
    """Without a teacher in its labels, a student's first layers are still those of its recipe's teacher."""
    hard = {"methods": ("random",), "evaluators": ("hard",)}
    made = [experiment(**hard, assignments=(f"teacher.stem={stem}",)) for stem in ("auto", "imagenet")]
    actual = [record(experiment(assignments=("teacher.stem=auto",)), 40.0)]
    for number, each in enumerate(made):
        of_labels = record(each.model_copy(update={"student_seed": number}), 50.0 + 10 * number, teacher={})
        actual.append(of_labels.model_copy(update={"metrics": of_labels.metrics.model_copy(update={"regime": "hard"})}))
    for each in actual:
        records.write(each, tmp_path / "records")
    cells = [Cell("random", "random", "digits", 10, evaluator="hard"), Cell("wmdd", "wmdd", "digits", 10)]
    spec = TableSpec("stems", "", lambda query: cells)
    frame = build_frame(spec, request_of(), REGISTRY, None, tmp_path)
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
    stored: Write, options: dict[str, Any], changes: dict[str, Any]
) -> None:
    other = record(experiment(**options), 90.0, **changes)
    assert measured(stored(other)) == []
    assert measured(stored(record(experiment(), 50.0))) == [[50.0]]


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
    stored: Write, options: dict[str, Any], changes: dict[str, Any], says: str
) -> None:
    other = record(experiment(**options), 90.0, **changes)
    frame = stored(record(experiment(), 50.0), other)
    assert sorted(measured(frame)) == [[50.0], [90.0]]
    digits = text_blocks(REGISTRY.table("ablation"), frame[frame["dataset"] == "digits"])
    shown = {block.heading: block.cells["IPC 10"].iloc[0] for block in digits}
    assert sorted(shown.values()) == ["50.00 (1 set)", "90.00 (1 set)"]
    (heading,) = [heading for heading, text in shown.items() if text == "90.00 (1 set)"]
    assert says in heading


def test_two_checkpoints_of_one_name_are_two_teachers_and_hard_labels_need_neither(stored: Write) -> None:
    given = experiment(assignments=("teacher.checkpoint=a.pt",))
    hard = experiment(assignments=("teacher.checkpoint=a.pt",), methods=("random",), evaluators=("hard",))
    frame = stored(
        record(given, 50.0),
        record(given, 90.0, teacher={"name": "resnet18", "top1": 90.0, "key": "u"}),
        record(hard, 30.0, teacher={}),
        name="regimes",
    )
    lines = frame[frame["state"] == "measured"]
    parts = [sorted(part["top1"]) for _, part in lines.groupby(list(SETTING_COLUMNS), dropna=False)]
    assert sorted(parts) == [[30.0, 50.0], [30.0, 90.0]]


def test_a_record_from_before_a_setting_existed_is_one_of_its_default(stored: Write) -> None:
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
        return record(made, 60.0 + made.student_seed, configuration=configuration, name=f"old-{made.student_seed}")

    old = [aged(experiment().model_copy(update={"student_seed": seed})) for seed in (1, 2)]
    assert measured(stored(record(experiment(), 50.0), *old)) == [[50.0, 61.0, 62.0]]


@pytest.mark.parametrize("section", ["method_settings", "evaluator_settings", "data", "teacher"])
def test_a_record_with_a_setting_that_is_no_more_is_in_no_cell(stored: Write, section: str) -> None:
    configuration = json.loads(experiment().model_dump_json())
    configuration[section]["gone"] = 1
    assert measured(stored(record(experiment(), 90.0, configuration=configuration))) == []


def test_of_one_set_and_student_the_newest_record_counts(stored: Write) -> None:
    newer = record(experiment(), 55.0, created="2026-02-01T00:00:00+00:00")
    assert measured(stored(newer, record(experiment(), 50.0))) == [[55.0]]
    # Base seed 1, first student, and base seed 0, second student, are the same student, but not the same set.
    moved = experiment().model_copy(update={"seed": 1})
    assert measured(stored(record(moved, 70.0))) == [[55.0, 70.0]]


def test_records_alone_are_what_was_asked_for(stored: Write) -> None:
    five = experiment(assignments=("teacher.epochs=5",))
    steps = experiment(assignments=("method.steps=299",))
    made = (experiment(), five, steps, experiment(image_size=8))
    teachers = ({}, {"teacher": OTHER}, {}, {})
    actual = [
        record(each, top1, **teacher)
        for each, top1, teacher in zip(made, (50.0, 60.0, 70.0, 80.0), teachers, strict=True)
    ]
    assert sorted(measured(stored(*actual))) == [[50.0], [60.0], [80.0]]
    assert measured(stored(assignments=("teacher.epochs=5",))) == [[60.0]]
    assert measured(stored(assignments=("wmdd.steps=299",))) == [[70.0]]
    assert measured(stored(image_size=8)) == [[80.0]]
    assert measured(stored(recipes=("quick", "released"))) == []
    assert measured(stored(device="cuda")) == []
    assert measured(stored(precision="bf16")) == []
    assert measured(stored(arch="convnet-d3", methods=("wmdd",))) == []
    # Without a budget the default one is meant, which for digits is quick.
    assert sorted(measured(stored(recipes=("released",)))) == []
    with pytest.raises(DDBenchError, match="unknown recipe 'quik'; did you mean 'quick'"):
        stored(recipes=("quik",))


def test_records_bring_their_own_ipcs_and_no_empty_columns(stored: Write) -> None:
    frame = stored(record(experiment(ipcs=(2,)), 50.0), record(experiment(ipcs=(3,), methods=("random",)), 20.0))
    assert set(frame.loc[frame["dataset"] == "digits", "ipc"]) == {2}
    assert set(frame.loc[frame["dataset"] == "imagenette", "ipc"]) == {10}
    assert set(stored(ipcs=(3, 4), datasets=("digits",))["ipc"]) == {3, 4}


def test_records_of_a_folder_of_images_go_by_its_name(stored: Write) -> None:
    made = experiment(datasets=("imagefolder:/somewhere/cats",))
    frame = stored(record(made, 50.0, dataset="imagefolder:cats"))
    assert measured(frame) == [[50.0]]


def test_the_difference_to_the_paper_is_under_the_papers_conditions_alone(stored: Write) -> None:
    of_paper = {"recipes": ("paper",), "datasets": ("imagenette",)}
    spec = REGISTRY.table("ablation")
    actual = [
        record(experiment(**of_paper), 60.0),
        record(experiment(**of_paper, image_size=64), 61.0),
        record(experiment(**of_paper, assignments=("teacher.epochs=5",)), 62.0, teacher=OTHER),
    ]
    frame = stored(*actual, datasets=("imagenette",))
    shown = [block.cells.iloc[0].to_dict() for block in text_blocks(spec, frame)]
    assert sorted((cells["IPC 10"], cells.get("IPC 10 difference", "")) for cells in shown) == [
        ("60.00 (1 set)", "-4.70"),
        ("61.00 (1 set)", ""),
        ("62.00 (1 set)", ""),
    ]


def test_no_difference_to_what_the_paper_quotes_from_elsewhere(stored: Write) -> None:
    of_paper = {"recipes": ("paper",), "datasets": ("imagenette",)}
    actual = [record(experiment(**of_paper, methods=(name,)), 60.0) for name in ("wmdd", "random", "sre2l")]
    frame = stored(*actual, name="comparison", datasets=("imagenette",), methods=("wmdd", "random", "sre2l"))
    (block,) = text_blocks(REGISTRY.table("comparison"), frame)
    cells = block.cells.set_index("method")
    assert cells["IPC 10 difference"].to_dict() == {"wmdd": "-4.80", "random": "", "sre2l": ""}
    assert cells.loc[["wmdd", "random", "sre2l"], "IPC 10 published"].tolist() == [
        *("64.8 ± 0.4", "47.7 ± 2.4 [1]", "54.2 ± 0.4 [2]")
    ]
    assert block.notes[0].startswith("[1] reported elsewhere")
    assert block.notes[1].startswith("[2] replicated")


def test_hours_are_those_of_sets_not_of_students(stored: Write) -> None:
    """Two recipes make sets of the same seeds: each set has its own hours, and a set with several students one."""
    stored_records = [
        record(
            experiment(ipcs=(1,), recipes=recipes).model_copy(update={"repeat": repeat, "student_seed": student}),
            50.0,
            seconds={"evaluate": 1.0, "distill": 1800.0 * (repeat + 1) * len(recipes)},
            distilled_digest=f"{'+'.join(recipes)} {repeat}",
            name=f"r{repeat}{student}{len(recipes)}",
        )
        for recipes in (("smoke",), ("smoke", "tuned"))
        for repeat in (0, 1)
        for student in (0, 1, 2)
    ]
    (block,) = text_blocks(
        REGISTRY.table("sliced"), stored(*stored_records, name="sliced", datasets=("digits",), ipcs=(1,))
    )
    assert block.cells["IPC 1 hours"].tolist() == ["0.75 ± 0.354 (2 sets)", "1.5 ± 0.707 (2 sets)", ""]
    assert block.cells["IPC 1 top-1"].tolist() == [*2 * ["50.00 ± 0.00 (6 on 2 sets)"], "never run"]


def test_a_broken_record_is_named_and_the_table_is_there(shell: Shell) -> None:
    records.write(record(experiment(), 50.0), shell.results / "records")
    (shell.results / "records" / "broken.json").write_text("{")
    outcome = shell("table", "sliced", "--format", "json")
    assert outcome.code == 0, outcome.err
    assert [line["top1"] for line in json.loads(outcome.out) if line["top1"] is not None] == [50.0]
    message, missing = outcome.errors
    assert "broken.json is not a record" in message
    assert missing == "7 cells without a number; --run needs data: --dataset NAME, --data-dir FOLDER"


def test_each_mixture_in_a_cell_is_named(stored: Write) -> None:
    built = {"torch": "2.15.0", "POT": "0.9.7", "threads": 1, "processes": 1, "distribution": "ddbench", "digest": ""}
    stages = {"teacher": [built], "statistics": [built], "distill": [built], "evaluate": [built]}
    first = record(experiment(), 50.0, stages=stages)
    device = {"type": "cpu", "name": "a CPU", "threads": 1}
    cases: dict[str, dict[str, Any]] = {
        "threads 1, 2 (evaluate)": {"stages": {**stages, "evaluate": [{**built, "threads": 2}]}},
        "processes 1, 2 (distill, evaluate)": {
            "stages": {**stages, **{stage: [{**built, "processes": 2}] for stage in ("distill", "evaluate")}}
        },
        "torch 2.15.0, 2.4.0 (distill)": {"stages": {**stages, "distill": [built, {**built, "torch": "2.4.0"}]}},
        "POT 0.9.3, 0.9.7 (statistics)": {"stages": {**stages, "statistics": [{**built, "POT": "0.9.3"}]}},
        "package ddbench, ddbench-mine (distill)": {
            "stages": {**stages, "distill": [{**built, "distribution": "ddbench-mine"}]}
        },
        "device a CPU, a GPU": {"device": {**device, "name": "a GPU"}},
        "compile off, on": {
            "configuration": {
                **first.configuration,
                "runtime": {**first.configuration["runtime"], "compile": "on"},
            }
        },
        "1 of 2 do not record how their stages were built": {"stages": {}},
    }
    same = {**first.configuration, "runtime": {**first.configuration["runtime"], "compile": "off"}}
    for message, changes in cases.items():
        other = experiment().model_copy(update={"repeat": 1})
        pair = [
            record(experiment(), 50.0, **{"stages": stages, "configuration": same}),
            record(other, 60.0, **{"stages": stages, "configuration": {**same, "repeat": 1}, **changes}),
        ]
        frame = stored(*pair)
        (note,) = set(frame.loc[frame["state"] == "measured", "mixture"])
        assert note.startswith("its records differ: ")
        assert message in note.removeprefix("its records differ: ").split("; "), note
    # How one teacher was built says nothing about its weights, and other sets and students are no mixture.
    frame = stored(
        record(experiment(), 50.0, stages=stages, configuration=same),
        record(other, 60.0, stages={**stages, "teacher": [{**built, "threads": 8}]}, configuration=same),
    )
    assert set(frame.loc[frame["state"] == "measured", "mixture"]) == {""}


def test_another_number_of_the_same_key_is_named(stored: Write) -> None:
    shown = record(experiment(), 50.0, created="2026-02-01T00:00:00+00:00")
    older = record(experiment(), 43.0, name="older", keys=shown.keys)
    frame = stored(shown, older)
    (row,) = frame[frame["state"] == "measured"].to_dict("records")
    assert row["top1"] == 50.0
    assert row["mixture"] == "not shown: 43.00 (older), with the same seeds or images"


def test_a_recipe_that_leaves_data_and_teacher_is_a_row_beside_the_others(stored: Write) -> None:
    tuned = experiment(recipes=("quick", "tuned"))
    sets = [record(tuned.model_copy(update={"repeat": repeat}), 60.0 + 2 * repeat) for repeat in (0, 1)]
    others = [record(experiment(methods=(name,)), top1) for name, top1 in (("random", 30.0), ("kmeans", 40.0))]
    frame = stored(*sets, *others, record(experiment(), 50.0), name="comparison", ipcs=(10,))
    (block,) = text_blocks(REGISTRY.table("comparison"), frame[frame["dataset"] == "digits"])
    assert block.heading.startswith("digits, 10 classes, 16 px, recipe quick, ")
    shown = dict(zip(block.cells["method"], block.cells["IPC 10"], strict=True))
    measured = {row: cell for row, cell in shown.items() if cell not in ("", "never run")}
    assert measured == {
        "kmeans": "40.00 (1 set)",
        "random": "30.00 (1 set)",
        "wmdd": "50.00 (1 set)",
        "wmdd, quick+tuned": "61.00 ± 1.41 (2 sets)",
    }
    assert list(shown).index("wmdd, quick+tuned") == list(shown).index("wmdd") + 1
    assert set(frame.loc[frame["top1"] >= 60, "recipe"]) == {"quick+tuned"}


def test_the_caveat_of_a_method_stands_beside_its_numbers(stored: Write) -> None:
    """The caveat of RDED is about other protocols than its own."""
    measured = [record(experiment(methods=(name,), evaluators=("fkd",)), 30.0) for name in ("random", "rded")]
    frame = stored(*measured, name="regimes")
    (block,) = text_blocks(REGISTRY.table("regimes"), frame[frame["dataset"] == "digits"])
    shown = block.cells.set_index("method")["IPC 10 fkd top-1"]
    assert (shown["random"], shown["rded"]) == ("30.00 (1 set)", "30.00 (1 set) [1]")
    assert block.notes == ["[1] rded: its crops are made for the protocol rded"]

    frame = stored(record(experiment(methods=("rded",)), 30.0), name="comparison")
    (block,) = text_blocks(REGISTRY.table("comparison"), frame[frame["dataset"] == "digits"])
    shown = block.cells.set_index("method")["IPC 10"]
    assert shown["rded"].startswith("30.00 (1 set)")
    assert not block.notes


def test_a_score_that_is_missing_says_why(stored: Write) -> None:
    students = [experiment().model_copy(update={"student_seed": seed}) for seed in (0, 1)]
    random = record(experiment(methods=("random",)), 30.0)
    frame = stored(*[record(made, 50.0) for made in students], random, name="regimes", ipcs=(10,))
    (block,) = text_blocks(REGISTRY.table("regimes"), frame[frame["dataset"] == "digits"])
    shown = dict(zip(block.cells["method"], block.cells["IPC 10 fkd IOR"], strict=True))
    assert (shown["wmdd"], shown["random"]) == ("– [1]", "0.00")
    assert block.notes == ["[1] random: no record of student seed 1"]


def test_robust_scores_are_shown_where_their_students_are(stored: Write) -> None:
    """Those without augmentation are in no cell: its mean stays."""

    def of(method: str, top1: float, *assignments: str, **changes: Any) -> Record:
        return record(experiment(methods=(method,), assignments=assignments, **changes), top1)

    usual = [of("wmdd", 50.0), of("random", 30.0), of("kmeans", 40.0)]
    none = "evaluator.augmentation=none"
    frame = stored(*usual, of("wmdd", 20.0, none), of("random", 16.0, none), name="regimes", ipcs=(10,))
    (block,) = text_blocks(REGISTRY.table("regimes"), frame[frame["dataset"] == "digits"])
    shown = block.cells.set_index("method")
    assert list(shown) == [f"IPC 10 fkd {name}" for name in ("top-1", "IOR", "raw ARS", "ARS")] + [
        f"IPC 10 {regime} top-1" for regime in ("soft", "hard")
    ] + ["all full-data top-1"]
    assert list(shown.loc["wmdd"])[:4] == ["50.00 (1 set)", "20.00", "12.00", "0.323"]  # (e^0.12 - 1/e) / (e - 1/e)
    assert list(shown.loc["random"])[:4] == ["30.00 (1 set)", "0.00", "0.00", "0.269"]
    assert list(shown.loc["kmeans"])[:4] == ["40.00 (1 set)", "10.00", "– [1]", "– [1]"]
    assert block.notes == ["[1] unaugmented: no record"]


def test_a_folder_can_be_given_as_text(stored: Write, tmp_path: Path) -> None:
    stored(record(experiment(), 50.0))
    assert ddbench.table("comparison", ipc=10, results_dir=str(tmp_path))["top1"].dropna().tolist() == [50.0]
