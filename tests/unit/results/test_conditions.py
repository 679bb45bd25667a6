"""Which records are comparable, and that tables, figures, scores and summaries average the same of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ddbench.api.table import Cell, TableSpec
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.summary import summarise
from ddbench.registry.registry import PluginRegistry
from ddbench.results import provenance, records
from ddbench.results.conditions import (
    dataset_names,
    distillation_config,
    evaluation_conditions,
    pools,
    recorded_datasets,
    student_key,
)
from ddbench.results.frames import to_frame
from ddbench.results.means import mean_top1
from ddbench.results.records import Record
from ddbench.results.scores import scores
from ddbench.tables.frame import build_frame
from ddbench.tables.layout import text_blocks

REGISTRY = PluginRegistry()
SPEC = TableSpec("agreement", "", lambda query: [Cell("wmdd", "wmdd", name, 10) for name in query.datasets])
OTHER_TEACHER = {"name": "convnet-bn-d3", "top1": 91.0, "key": "t", "digest": "other"}
OTHER_RECOVER = {
    "numerics": provenance.versions()["numerics"].replace("recover=", "recover=0"),
}
SEPARATE, TWO_STUDENTS, ONE_STUDENT = [(40.0, 1, 1), (60.0, 1, 1)], [(50.0, 2, 2)], [(60.0, 1, 1)]
ONE, OTHER = ("one", 76.0), ("other", 81.0)


def test_conditions_of_students_are_without_their_sets_and_seeds(record: Callable[..., Record]) -> None:
    plain = evaluation_conditions(record(50.0))
    assert evaluation_conditions(record(60.0, method="random", seed=3, repeat=2, bn_weight=1.0)) == plain
    for changes in ({"ipc": 1}, {"evaluator": "hard"}, {"student": "resnet50"}, {"dataset": "imagewoof"}):
        assert evaluation_conditions(record(50.0, **changes)) != plain


def test_a_teacher_counts_where_labels_or_images_come_from_it(record: Callable[..., Record]) -> None:
    for evaluator, labelled in (("fkd", True), ("hard", False)):
        one, other = (record(50.0, evaluator=evaluator, teacher=teacher) for teacher in (ONE, OTHER))
        assert (evaluation_conditions(one) != evaluation_conditions(other)) == labelled
    for method, matched in (("wmdd", True), ("random", False)):
        one, other = (record(50.0, method=method, teacher=teacher) for teacher in (ONE, OTHER))
        assert (distillation_config(one) != distillation_config(other)) == matched


def test_a_student_is_its_set_and_the_sum_of_both_seeds(record: Callable[..., Record]) -> None:
    one = record(50.0, seed=1)
    assert student_key(one) == student_key(record(51.0).model_copy(update={"seed": 1}))
    assert student_key(one) != student_key(record(50.0, seed=1, repeat=1))
    assert student_key(one) != student_key(record(50.0))


def folder(record: Callable[..., Record], name: str, fingerprint: str) -> Record:
    made = record(50.0, dataset=f"imagefolder:{name}", data={"fingerprint": fingerprint})
    assert made.dataset == f"imagefolder:{name}@{fingerprint[:8]}"
    return made


def test_copies_under_two_names_are_one_dataset(record: Callable[..., Record]) -> None:
    one, copy = (folder(record, name, "0123abcd" * 4) for name in ("pets", "animals"))
    assert evaluation_conditions(one) == evaluation_conditions(copy)
    (pool,) = pools([one, copy])
    assert pool.records == [one, copy]
    assert set(dataset_names([one, copy]).values()) == {"imagefolder:animals@0123abcd"}
    registered = record(50.0, dataset="pictures", data={"fingerprint": "0123abcd" * 4})
    assert set(dataset_names([one, copy, registered]).values()) == {"pictures"}
    for reference in ("imagefolder:/me/pets", "imagefolder:animals", one.dataset, copy.dataset):
        assert recorded_datasets([reference], [one, copy]) == (copy.dataset,)


def test_a_name_that_one_record_alone_has_is_not_that_of_the_dataset(record: Callable[..., Record]) -> None:
    """Otherwise one record would change the title of the table and leave out the published numbers."""
    made = [record(50.0, dataset=name, data={"fingerprint": "1" * 32}) for name in ("copy", "imagenette", "imagenette")]
    assert set(dataset_names(made).values()) == {"imagenette"}
    assert recorded_datasets(["copy"], made) == ("imagenette",)


def test_folders_of_one_name_are_two_datasets(record: Callable[..., Record]) -> None:
    one, other = (folder(record, "pets", digit * 32) for digit in "12")
    assert evaluation_conditions(one) != evaluation_conditions(other)
    assert [pool.records for pool in pools([one, other])] == [[one], [other]]
    assert recorded_datasets(["imagefolder:pets"], [one, other]) == (one.dataset, other.dataset)
    assert recorded_datasets([other.dataset, "digits"], [one, other]) == (other.dataset, "digits")


@pytest.fixture
def made(record: Callable[..., Record]) -> Callable[..., Record]:
    """Makes a record of WMDD on a folder of images, with the configuration that its cell of a table has."""
    request = Request(
        ("wmdd",), ("imagefolder:/photos/pets",), (10,), recipes=("quick",), device="cpu", precision="fp32"
    )
    (experiment,) = experiments(request, REGISTRY)

    def make(top1: float, dataset: str = "imagefolder:pets", fingerprint: str = "1" * 32, **changes: Any) -> Record:
        repeat, runtime = changes.get("repeat", 0), changes.pop("runtime", {})
        configuration = {**json.loads(experiment.model_dump_json()), "dataset": dataset, "repeat": repeat}
        configuration["runtime"] = {**configuration["runtime"], "compile": "off", **runtime}
        for section, name in changes.pop("lacks", ()):
            del configuration[section][name]
        values = {
            "student": experiment.student,
            "image_size": experiment.data.image_size,
            "evaluator_version": experiment.evaluator.version,
            "method_version": experiment.method.version,
            "teacher": {"name": "convnet-bn-d3", "top1": 91.0, "key": "t", "digest": "t"},
            "data": {"fingerprint": fingerprint},
            "configuration": configuration,
            "versions": provenance.versions(),
            "distilled_digest": f"set of {top1}",
            "name": f"wmdd-{top1:g}",
            "created": f"2026-01-01T00:00:{top1:02.0f}+00:00",
            "keys": {"teacher": ["t"], "statistics": ["s"], "evaluate": [f"{top1}"]},
        }
        return Record(**{**record(top1).model_dump(mode="json"), "dataset": dataset, **values, **changes})

    return make


def averages(pair: list[Record], folder: Path) -> dict[str, list[tuple[float, int, int]]]:
    """The mean, students and sets of each row or point with a number, by the code that averages."""
    for each in pair:
        records.write(each, folder / "records")
    frame = build_frame(SPEC, Request((), (), ()), REGISTRY, None, folder)
    texts = [block.cells["IPC 10"].iloc[0] for block in text_blocks(SPEC, frame) if "IPC 10" in block.cells]
    counted = {"(1 set)": (1, 1), "(2 sets)": (2, 2), "(2 on 1 set)": (2, 1)}
    table = [(float(text.split()[0]), *counted[text[text.index("(") : text.index(")") + 1]]) for text in texts]
    points = [(point.top1, point.n, point.sets) for point in mean_top1(pair, "ipc").itertuples()]
    scored = [(row.top1, row.n, row.sets) for row in scores(to_frame(pair)).itertuples()]
    pipeline = cast(
        Pipeline, SimpleNamespace(experiment=experiments(Request(("wmdd",), ("digits",), (10,)), REGISTRY)[0])
    )
    summary = summarise((pipeline, each) for each in pair)
    summed = [
        (float(row["top-1 (last epoch)"].split()[0]), *(int(word) for word in row["n"].split() if word.isdigit()))
        for row in summary.to_dict("records")
    ]
    return {"table": sorted(table), "figure": sorted(points), "scores": sorted(scored), "summary": sorted(summed)}


@pytest.mark.parametrize("same_seeds", [True, False], ids=["same seeds", "other seeds"])
@pytest.mark.parametrize(
    ("changes", "separate"),
    [
        pytest.param({"fingerprint": "2" * 32}, True, id="two folders of one name"),
        pytest.param({"dataset": "imagefolder:animals"}, False, id="copies of one folder"),
        pytest.param({"versions": OTHER_RECOVER}, True, id="another version of recover"),
        pytest.param({"runtime": {"compile": "on"}}, False, id="compilation"),
        pytest.param({"teacher": OTHER_TEACHER}, True, id="another teacher"),
        pytest.param({"device": {"type": "cpu", "name": "a CPU", "threads": 8}}, False, id="threads"),
        pytest.param({"runtime": {"precision": "bf16"}}, True, id="precision"),
        pytest.param(
            {"lacks": (("method_settings", "feature_loss"), ("evaluator_settings", "labels"), ("data", "holdout"))},
            False,
            id="from before settings existed",
        ),
        pytest.param({"recipes": ["quick", "tuned"]}, False, id="another name of the settings"),
    ],
)
def test_all_average_the_same_records(
    changes: dict[str, Any], separate: bool, same_seeds: bool, made: Callable[..., Record], tmp_path: Path
) -> None:
    """Of equal seeds in one pool the newest record counts; it has the higher top-1 here."""
    pair = [made(40.0), made(60.0, repeat=0 if same_seeds else 1, **changes)]
    expected = SEPARATE if separate else ONE_STUDENT if same_seeds else TWO_STUDENTS
    assert averages(pair, tmp_path) == dict.fromkeys(("table", "figure", "scores", "summary"), expected)


@pytest.mark.parametrize(("top1", "named"), [(60.0, False), (40.0, True)])
def test_one_student_of_two_evaluate_keys_counts_once_and_another_number_is_named(
    top1: float, named: bool, made: Callable[..., Record], tmp_path: Path
) -> None:
    """Sets of two seeds can have the same images, e.g. those of a method without random draws."""
    same = {"distilled_digest": "images", "repeat": 1}
    other = made(top1, **same, name="older", keys={"evaluate": ["a"], "teacher": ["t"], "statistics": ["s"]})
    pair = [other.model_copy(update={"created": "2025"}), made(60.0, **{**same, "repeat": 2})]
    assert averages(pair, tmp_path) == dict.fromkeys(("table", "figure", "scores", "summary"), ONE_STUDENT)
    frame = build_frame(SPEC, Request((), (), ()), REGISTRY, None, tmp_path)
    notes = [
        set(frame.loc[frame["state"] == "measured", "mixture"]),
        set(mean_top1(pair, "ipc")["mixture"]),
        set(scores(to_frame(pair))["mixture"]),
    ]
    assert notes == 3 * [{"not shown: 40.00 (older), with the same seeds or images" if named else ""}]
