"""Frames and cache contents as text, CSV and JSON."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from ddbench.api.evaluator import Metrics
from ddbench.results.records import Record
from ddbench.results.text import cache_text, frame_text, record_rows, record_text

FRAME = pd.DataFrame(
    {"name": ["a", "b"], "top1": [62.456, float("nan")], "lrs": [0.19539, 0.2], "nested": [{"x": [1, 2]}, {"y": None}]}
)


def test_json_has_null_for_what_is_missing() -> None:
    rows = json.loads(frame_text(FRAME, "json"))
    assert rows[1] == {"name": "b", "top1": None, "lrs": 0.2, "nested": {"y": None}}


def test_csv_has_a_column_for_every_nested_value() -> None:
    rows = list(csv.DictReader(io.StringIO(frame_text(FRAME, "csv"))))
    assert rows[0]["nested.x"] == "[1, 2]"
    assert (rows[1]["top1"], rows[1]["nested.x"]) == ("", "")
    assert frame_text(FRAME[:0], "csv") == "name,top1,lrs,nested"


def test_text_is_rounded() -> None:
    lines = frame_text(FRAME[["name", "top1", "lrs"]], "text").splitlines()
    assert [line.split() for line in (lines[0], *lines[2:])] == [
        ["name", "top1", "lrs"],
        ["a", "62.46", "0.1954"],
        ["b", "0.2000"],
    ]


def test_a_record_is_rows_and_its_configuration(record: Callable[..., Record]) -> None:
    made = record(61.25)
    rows = dict(record_rows(made))
    assert rows["top-1 (last epoch)"].startswith("61.25 % on ")
    assert rows["teacher"] == "resnet18, 76.00 % on validation images"
    own = {**made.configuration, "changed": ["method.steps"]}
    changed = dict(record_rows(made.model_copy(update={"configuration": own})))
    assert (rows["recipe"], changed["recipe"]) == ("quick", "quick + 1 changed")
    own = {**made.configuration, "teacher": {**made.configuration["teacher"], "checkpoint": "teacher.pt"}}
    of_file = made.model_copy(update={"configuration": own, "teacher": {**made.teacher, "digest": "0123456789abcdef"}})
    assert dict(record_rows(of_file))["teacher"].endswith(", weights 0123456789ab")
    assert rows["repeated by"] == f"ddbench repeat {made.name}"
    assert "best epoch" not in rows
    text = record_text(made)
    assert text.index("61.25") < text.index("evaluator_settings:")


def test_the_classes_of_a_teacher_are_named_and_of_many_the_lowest_are_shown(record: Callable[..., Record]) -> None:
    made = record(61.25)

    def by_class(names: list[str], values: list[float]) -> str:
        teacher, metrics = ({**tree, "per_class": values} for tree in (made.teacher, made.metrics.model_dump()))
        changes = {"teacher": teacher, "metrics": Metrics(**metrics), "data": {"class_names": names}}
        rows = dict(record_rows(made.model_copy(update=changes)))
        assert rows["teacher by class"] == rows["top-1 by class"]
        return rows["teacher by class"]

    assert "teacher by class" not in dict(record_rows(made))
    assert dict(record_rows(made))["top-1 by class"] == "61"
    assert by_class([], [81.6, 70.2]) == "82 70"
    assert by_class(["cat", "dog"], [81.6, 70.2]) == "cat 82, dog 70"
    many = by_class([f"c{number}" for number in range(200)], [100.0 - number / 2 for number in range(200)])
    assert many.startswith("c199 0, c198 1, ")
    assert many.endswith("c180 10 (the lowest of 200 classes)")


@pytest.mark.parametrize("place", [{}, {"where": "local"}])
def test_artifacts_are_listed_with_their_sum(place: dict[str, Any]) -> None:
    entry = {"stage": "teacher", "key": "ab", "bytes": 3 * 2**20, "modified": 0.0, **place}
    text = cache_text([entry, {**entry, "stage": "distill"}])
    assert text.endswith("2 files, 6.0 MB")
    assert ("where" in text) == bool(place)
    assert text.splitlines()[2].split()[:3] == ["teacher", "ab", "3.00"]
