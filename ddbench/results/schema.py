"""The JSON schema of the files of records: `ddbench records --schema`."""

from __future__ import annotations

import json
from typing import Any

from ddbench.results.records import Record


def record_schema() -> dict[str, Any]:
    """Returns the JSON schema (draft 2020-12) of the file of a record, generated from `Record`.

    Example:
        >>> record_schema()["properties"]["seed"]["type"]
        'integer'
    """
    schema = Record.model_json_schema()
    digest = {"type": "string", "description": "SHA-256 of the other content as JSON with sorted names"}
    schema["properties"] = {**schema["properties"], "digest": digest}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Record of ddbench"}


def schema_text() -> str:
    """Returns the schema as the text of a file."""
    return json.dumps(record_schema(), indent=2) + "\n"
