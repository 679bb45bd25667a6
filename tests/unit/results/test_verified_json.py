"""JSON text with a digest: what is read back, and what is refused."""

import json
from typing import Any

import pytest

from ddbench.results import verified_json

CONTENT: dict[str, Any] = {"name": "a — ü", "top1": 100 / 3, "counts": [1, 2], "empty": None}


def test_content_is_read_back_to_the_last_bit_whatever_the_form() -> None:
    text = verified_json.dump(CONTENT)
    assert verified_json.load(text) == CONTENT
    reordered = json.dumps(dict(reversed(json.loads(text).items())))
    assert reordered != text
    assert verified_json.load(reordered) == CONTENT
    assert verified_json.load(json.dumps(CONTENT)) == CONTENT  # an older version wrote no digest


@pytest.mark.parametrize("change", [{"top1": 33.0}, {"more": 1}, {"digest": ""}, {"digest": None}])
def test_changed_content_is_refused(change: dict[str, Any]) -> None:
    text = json.dumps({**json.loads(verified_json.dump(CONTENT)), **change})
    with pytest.raises(ValueError, match="damaged, or changed by hand"):
        verified_json.load(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [('{"top1": NaN}', "not a finite"), ('{"top1": 1e999}', "not a finite"), ("[" * 100_000, "nested too deeply")],
)
def test_numbers_that_are_not_finite_and_deep_trees_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        verified_json.load(text)
