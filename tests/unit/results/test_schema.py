"""The JSON schema of records: the published file is the generated one, and every committed record fits it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from ddbench.results.schema import record_schema, schema_text

RESULTS = Path(__file__).parents[3] / "results"
RECORDS = sorted(RESULTS.glob("reference/*/records/*.json"))


def test_the_published_schema_is_the_generated_one() -> None:
    file = RESULTS / "record.schema.json"
    assert file.read_text(encoding="utf-8") == schema_text(), "ddbench records --schema > results/record.schema.json"


def test_every_field_has_a_description() -> None:
    schema = record_schema()
    models = [schema, *schema["$defs"].values()]
    fields = {f"{model['title']}: {name}": field for model in models for name, field in model["properties"].items()}
    assert len(fields) > 50
    assert [name for name, field in fields.items() if not field.get("description")] == []


@pytest.mark.slow
def test_every_committed_record_fits_the_schema() -> None:
    schema = record_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    assert len(RECORDS) > 100
    misfits = {
        path.name: [error.message for error in validator.iter_errors(json.loads(path.read_text()))] for path in RECORDS
    }
    assert {name: errors for name, errors in misfits.items() if errors} == {}


@pytest.mark.parametrize("change", [{"ipc": "ten"}, {"metrics": {}}, {"surprise": 1}, {"digest": 3}, {"seed": None}])
def test_another_file_does_not_fit_the_schema(change: dict[str, Any]) -> None:
    content = json.loads(RECORDS[0].read_text())
    assert not Draft202012Validator(record_schema()).is_valid({**content, **change})
