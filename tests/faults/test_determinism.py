"""The same command twice, each in a cache of its own: the same record and the same bits of every artifact."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Place, Small

THREADS = (1, 4)
DIGITS = ("--dataset", "digits", "--ipc", "5", "--recipe", "smoke", "--device", "cpu", "--precision", "fp32")
METHODS = {
    "wmdd": ("--arch", "convnet-bn-d2", "--set", "teacher.batch_size=256", "--set", "method.steps=20"),
    "dsa": ("--evaluator", "dsa", "--set", "method.iterations=5"),
}


def compared(name: str, pairs: dict[int, list[Place]]) -> str:
    """Asserts that runs with as many threads gave the same; says how far those with 4 are from those with 1."""
    records = {}
    for threads, places in pairs.items():
        (records[threads],) = places[0].records().values()
        assert records[threads]["device"]["threads"] == threads
        assert [place.records() for place in places] == [places[0].records()] * len(places)
        assert [place.digests() for place in places] == [places[0].digests()] * len(places)
    sets = {record["distilled_digest"] for record in records.values()}
    top1 = " and ".join(f"{record['metrics']['top1_last']:.2f}" for record in records.values())
    return (
        f"{name} twice with 1 thread and twice with 4: the same record and artifacts both times; "
        f"with 4 {'the same set' if len(sets) == 1 else 'another set'} as with 1, top-1 {top1}"
    )


def test_the_same_command_gives_the_same_record(
    small: Small, place_at: Callable[..., Place], tmp_path: Path, tally: Callable[[str], None]
) -> None:
    pairs = {threads: [place_at(tmp_path / f"{threads}, {number}") for number in range(2)] for threads in THREADS}
    for threads, places in pairs.items():
        for place in places:
            assert small.start(place, threads=threads).end() == 0, place.lines()
    pairs[1].append(small.alone)  # a process that was not forked
    tally(compared("a small wmdd", pairs))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_same_command_gives_the_same_record_in_new_processes(
    method: str,
    place_at: Callable[..., Place],
    tmp_path: Path,
    counted: Callable[[int, int], int],
    tally: Callable[[str], None],
) -> None:
    times = counted(0, 2)
    if not times:
        pytest.skip("runs with DDBENCH_FAULTS=full")
    pairs = {threads: [place_at(tmp_path / f"{threads}, {number}") for number in range(times)] for threads in THREADS}
    for threads, places in pairs.items():
        for place in places:
            command = [sys.executable, "-m", "ddbench", "run", "--method", method, *DIGITS, *METHODS[method]]
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
            subprocess.run([*command, *place.options], env=environment, check=True, capture_output=True)
    tally(compared(f"{method} on digits", pairs))
