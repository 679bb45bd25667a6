"""What a record holds of a run."""

from __future__ import annotations

from pathlib import Path

from ddbench.pipeline import record
from ddbench.storage.artifacts import Artifact


def test_a_record_tells_the_operations_of_every_part_and_nothing_where_one_does_not() -> None:
    def part(**device: object) -> Artifact:
        return Artifact("distill", "key", Path(), {}, {"device": {"type": "cuda", **device}}, "")

    student, none, two, old = (
        part(nondeterministic=["b"]),
        part(nondeterministic=[]),
        part(nondeterministic=["c", "a"]),
        part(),
    )
    assert record.device_of(student, [student, none, two]) == {"type": "cuda", "nondeterministic": ["a", "b", "c"]}
    assert record.device_of(none, [none]) == {"type": "cuda", "nondeterministic": []}
    assert record.device_of(student, [student, old]) == {"type": "cuda"}
