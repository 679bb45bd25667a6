"""A search that is killed in its trials and again before its winners ends as one that was left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Place, Small

TUNE = (
    *("tune", "--method", "random", "--dataset", "digits", "--ipc", "1", "--evaluator", "soft"),
    *("--recipe", "smoke", "--device", "cpu", "--precision", "fp32", "--image-size", "8", "--student", "convnet-d2"),
    *("--over", "evaluator.epochs=1,4", "--over", "evaluator.temperature=4,20"),
)


def test_a_killed_search_goes_on_from_there(
    tmp_path: Path,
    small: Small,
    place_at: Callable[[Path], Place],
    stop_at: Callable[..., dict[str, str]],
) -> None:
    """The second run has the trials' teacher in the cache: the first one that it trains is that of the winners."""
    killed, untouched = place_at(tmp_path / "killed"), place_at(tmp_path / "untouched")
    environment = stop_at("evaluate", "finished", 3, "SIGKILL")
    for stop in (environment["DDTEST_STOP"], "teacher finished 1 SIGKILL"):
        environment["DDTEST_STOP"] = stop
        run = small.command(killed, *TUNE, *killed.options, environment=environment)
        assert run.end() == -9, killed.lines()
        held_out = {record["configuration"]["data"]["holdout"] for record in killed.records().values()}
        assert held_out == {0.1}
    for place in (killed, untouched):
        assert small.command(place, *TUNE, *place.options).end() == 0, place.lines()
    assert len(killed.records()) == 4 + 1
    assert killed.records() == untouched.records()
    assert killed.digests() == untouched.digests()
    assert row_in(killed) == row_in(untouched)


def row_in(place: Place) -> list[str]:
    """The row of the table of the search, without its seconds."""
    lines = place.lines()
    heading = max(number for number, line in enumerate(lines) if line.startswith("method  trials"))
    return lines[heading + 2].split()[:-1]
