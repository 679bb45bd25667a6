"""Many at once: processes that share a cache compute each stage once; where locks do not hold, only time is lost."""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Forked, Place, Small

TEACHER = "teacher convnet-bn-d2: "
HELD_BY_ALL = 0
"""What the kernel answers to who asks for a lock where locks do not reach: it is yours."""


def begun(*runs: Forked | Place) -> Counter[str]:
    """How often each part was begun, by any of them: one class's barycenter is called as another's."""
    lines = (line for run in runs for line in run.lines())
    return Counter(line.partition(": ")[0] for line in lines if line.endswith((": started", ": resumed")))


def texts(places: Iterable[Place]) -> set[bytes]:
    """What stands in their records."""
    return {path.read_bytes() for place in places for path in (place.results / "records").iterdir()}


def test_many_processes_compute_each_stage_once(
    small: Small,
    place_at: Callable[..., Place],
    tmp_path: Path,
    counted: Callable[[int, int], int],
    tally: Callable[[str], None],
) -> None:
    count, cache = counted(3, 8), tmp_path / "cache"

    def all_at_once(name: str) -> tuple[list[Place], list[Forked]]:
        places = [place_at(tmp_path / f"{name} {number}", cache) for number in range(count)]
        runs = [small.start(place) for place in places]
        assert [run.end() for run in runs] == [0] * count, [run.lines()[-1] for run in runs]
        return places, runs

    places, runs = all_at_once("new")
    parts = begun(*runs)
    assert parts == begun(small.alone)
    assert len(texts(places)) == 1  # times too: they are those of the one computation
    assert (places[0].records(), places[0].digests()) == (small.alone.records(), small.alone.digests())
    assert places[0].left_over() == []
    tally(f"{count} processes at once: {parts.total()} parts computed, each once; {count} same records")

    (teacher,) = (cache / "teacher").iterdir()
    os.truncate(teacher, teacher.stat().st_size // 2)
    places, runs = all_at_once("damaged")
    assert begun(*runs) == {TEACHER.rstrip(": "): 1}
    assert len(list(teacher.parent.glob("*.damaged-*"))) == 1
    assert [place.records() for place in places] == [small.alone.records()] * count
    tally(f"{count} processes at once find a damaged teacher: set aside once, computed once, {count} same records")


def test_two_different_runs_in_one_cache_do_not_disturb_each_other(
    small: Small, place_at: Callable[..., Place], tmp_path: Path
) -> None:
    one, other = place_at(tmp_path / "one"), place_at(tmp_path / "other", tmp_path / "one" / "cache")
    runs = [small.start(one), small.start(other, "--seed", "1")]
    assert [run.end() for run in runs] == [0, 0]
    parts = begun(*runs)
    assert parts[TEACHER.rstrip(": ")] == 1
    assert parts["distill wmdd IPC 2 1/1"] == 2
    lonely = place_at(tmp_path / "lonely")
    assert small.start(lonely, "--seed", "1").end() == 0
    assert one.records() == small.alone.records() != lonely.records() == other.records()
    assert one.digests() == small.alone.digests() | lonely.digests()
    assert one.left_over() == []


def test_the_lock_of_a_killed_process_does_not_block(
    small: Small, place_at: Callable[..., Place], tmp_path: Path
) -> None:
    first, second = place_at(tmp_path / "first"), place_at(tmp_path / "second", tmp_path / "first" / "cache")
    holder = small.start(first, pause=TEACHER + "started")
    holder.wait_for(TEACHER + "started")
    waiting = small.start(second)
    waiting.wait_for("waiting for another process that builds this teacher artifact")
    assert waiting.end(block=False) is None
    assert holder.kill() == -signal.SIGKILL
    assert waiting.end() == 0
    assert begun(waiting)[TEACHER.rstrip(": ")] == 1
    assert (second.records(), second.digests()) == (small.alone.records(), small.alone.digests())
    assert second.left_over() == []


def test_where_a_lock_does_not_hold_a_duplicate_costs_time_only(
    small: Small, place_at: Callable[..., Place], tmp_path: Path
) -> None:
    """As on two hosts that share a folder and no locks: both hold every lock."""
    first, second = place_at(tmp_path / "first"), place_at(tmp_path / "second", tmp_path / "first" / "cache")
    slow = small.start(first, flock=HELD_BY_ALL, pause=TEACHER + "started")
    slow.wait_for(TEACHER + "started")
    quick = small.start(second, flock=HELD_BY_ALL)
    assert quick.end() == 0
    slow.resume()
    assert slow.end() == 0
    assert begun(slow, quick)[TEACHER.rstrip(": ")] == 2
    assert len(texts([first, second])) == 1  # the artifacts that were there first are those of both
    assert (first.records(), first.digests()) == (small.alone.records(), small.alone.digests())
    assert first.left_over() == []


def test_many_at_once_without_locks_end_with_the_same_record(
    small: Small,
    place_at: Callable[..., Place],
    tmp_path: Path,
    counted: Callable[[int, int], int],
    tally: Callable[[str], None],
) -> None:
    count, cache = counted(2, 8), tmp_path / "cache"
    places = [place_at(tmp_path / f"{number}", cache) for number in range(count)]
    runs = [small.start(place, flock=HELD_BY_ALL) for place in places]
    assert [run.end() for run in runs] == [0] * count, [run.lines()[-1] for run in runs]
    assert [place.records() for place in places] == [small.alone.records()] * count
    assert places[0].digests() == small.alone.digests()
    assert places[0].left_over() == []
    parts, times = begun(small.alone).total(), begun(*runs).total()
    assert parts <= times <= parts * count
    tally(
        f"{count} processes at once where no lock holds: {parts} parts computed {times} times in all; "
        f"{count} same records, nothing left over"
    )


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_named_once_and_does(
    number: int, small: Small, place_at: Callable[..., Place], tmp_path: Path
) -> None:
    place = place_at(tmp_path)
    run = small.start(place, flock=number)
    assert run.end() == 0, run.lines()
    messages = [line for line in run.lines() if line.startswith("no locks: ")]
    assert len(messages) == 1
    assert os.strerror(number) in messages[0]
    assert (place.records(), place.digests()) == (small.alone.records(), small.alone.digests())
