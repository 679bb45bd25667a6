"""What a stage declares by default: its parts, what is built before them, and its key."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ddbench.api.stage import Stage


class Trajectories(Stage[Any]):
    name = "trajectories"
    version = "3"
    inputs = ("data", "teacher")

    def count(self, run: Any) -> int:
        return 4

    def depends_on(self, run: Any) -> dict[str, Any]:
        return {"epochs": 7}

    def build(self, run: Any, part: int, checkpoint: object) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {}


class Run:
    """What a stage asks a run for."""

    def __init__(self, *stages: str) -> None:
        self.method = SimpleNamespace(stages=lambda: stages)
        self.asked: list[tuple[str, int]] = []

    def parts_of(self, stage: str) -> range:
        return range({"data": 2, "teacher": 1}[stage])

    def common_key(self, stage: Stage[Any]) -> dict[str, Any]:
        return {"inputs": stage.inputs, "part": "overridden"}

    def is_cached(self, stage: str, part: int) -> bool:
        return (stage, part) == ("trajectories", 1)

    def tensors(self, stage: str, part: int) -> dict[str, Any]:
        self.asked.append((stage, part))
        return {}


def test_a_method_that_does_not_use_it_needs_no_part() -> None:
    assert list(Trajectories().parts(Run("trajectories"))) == [0, 1, 2, 3]
    assert list(Trajectories().parts(Run("other"))) == []


def test_all_parts_of_its_inputs_are_built_before() -> None:
    assert Trajectories().needs(Run(), 2) == [("data", 0), ("data", 1), ("teacher", 0)]


def test_the_key_holds_the_content_of_a_file(tmp_path: Path) -> None:
    class Loading(Trajectories):
        def depends_on(self, run: Any) -> dict[str, Any]:
            return {"start": tmp_path / run.place, "none": None}

    def depends_on(place: str) -> Any:
        run: Any = Run()
        run.place = place
        return Loading().key(run, 0)["depends_on"]

    for place, content in (("one", b"a"), ("two", b"a"), ("three", b"b")):
        (tmp_path / place).write_bytes(content)
    assert depends_on("one") == depends_on("two") == {"start": hashlib.sha256(b"a").hexdigest(), "none": None}
    assert depends_on("three") != depends_on("one")
    assert depends_on("absent") == {"start": "absent", "none": None}


def test_the_key_holds_version_part_and_settings() -> None:
    key = {"inputs": ("data", "teacher"), "version": "3", "part": 2, "depends_on": {"epochs": 7}}
    assert Trajectories().key(Run(), 2) == key


def test_parts_are_numbered_from_one_where_there_are_several() -> None:
    class Single(Trajectories):
        def count(self, run: Any) -> int:
            return 1

    several = [Trajectories().label(Run(), part) for part in (0, 3)]
    assert [*several, Single().label(Run(), 0)] == ["1/4", "4/4", ""]


def test_a_part_is_built_by_asking_for_its_tensors() -> None:
    run, stage = Run(), Trajectories()
    assert [stage.is_built(run, part) for part in range(3)] == [False, True, False]
    stage.ensure(run, 2)
    assert run.asked == [("trajectories", 2)]
