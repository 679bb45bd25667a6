"""Killed in every stage and run again: the record is that of a run that nobody touched."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.storage.artifacts import read_tensors

if TYPE_CHECKING:
    from conftest import Place, Small

RESUMED = "distill wmdd IPC 2 1/1: resumed"


def step_of(place: Place) -> int:
    """The step of the recover checkpoint; 0 without one."""
    steps = [0]
    for path in (place.cache / "checkpoints" / "distill").glob("[!.]*"):
        content = read_tensors(path)
        steps.append(0 if content is None else int(content[1]["step"]))
    return max(steps)


def is_distilled(place: Place) -> bool:
    return any((place.cache / "distill").glob("[!.]*"))


def test_killed_in_every_stage_a_run_ends_with_the_bytes_of_an_uninterrupted_one(
    small: Small,
    place_at: Callable[[Path], Place],
    tmp_path: Path,
    stop_at: Callable[[str, str, int, str], dict[str, str]],
) -> None:
    small = small.variant({"method.steps=30": "method.steps=100"})  # every 25th step is reported: there it is killed
    place = place_at(tmp_path / "killed")

    def code_of(stage: str, kind: str, number: int, name: str) -> int | None:
        return small.start(place, environment=stop_at(stage, kind, number, name)).end()

    for stage, number in (("teacher", 1), ("statistics", 2)):
        assert code_of(stage, "started", number, "SIGKILL") == -signal.SIGKILL, place.lines()
        assert place.lines()[-1].startswith(stage)
        assert not step_of(place)

    reached = 0
    kills = ((25, "SIGKILL", -signal.SIGKILL), (50, "SIGINT", 130), (75, "SIGKILL", -signal.SIGKILL))
    for step, name, code in kills:
        assert code_of("distill", "step", step, name) == code, place.lines()
        assert not is_distilled(place)
        assert any(RESUMED in line for line in place.lines()) == (reached > 0)
        assert reached < step_of(place) <= step + 1
        reached = step_of(place)
        if name == "SIGINT":
            assert place.lines()[-1] == "ddbench: stopped by Ctrl-C; run the same command again to resume"
            assert not any("Traceback" in line for line in place.lines())

    assert code_of("evaluate", "step", 10, "SIGKILL") == -signal.SIGKILL, place.lines()
    assert any(RESUMED in line for line in place.lines())
    assert is_distilled(place)
    assert step_of(place) == 0, "the checkpoint outlived what it was for"

    untouched = place_at(tmp_path / "untouched")
    for one in (place, untouched):
        assert small.start(one).end() == 0, one.lines()
    assert not any("resumed" in line for line in untouched.lines())
    assert len(place.records()) == 1
    assert (place.records(), place.digests()) == (untouched.records(), untouched.digests())
    assert place.left_over() == []
