"""Killed anywhere: after `kill -9` at a random moment the same command ends with the record of a run left alone."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch

from ddbench.pipeline.graph import stage_graph
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache
from ddbench.storage.checkpoint import Checkpoint

if TYPE_CHECKING:
    from conftest import Place, Small

REGISTRY = PluginRegistry()
OPTIONAL = {"measures", *(name for method in REGISTRY.distillers() for name in method().stages())}
"""Stages that the small run does not have: those of measures and of other methods."""
STAGES = tuple(name for name in stage_graph(REGISTRY).names if name not in OPTIONAL)


def stage_at(lines: Sequence[str]) -> str:
    """The innermost stage that was under way at the end of these messages."""
    under_way: list[str] = []
    last = "before the first stage"
    for line in lines:
        stage, text = line.split(" ")[0].rstrip(":"), line.partition(": ")[2]
        if stage in STAGES and text.startswith(("started", "resumed")):
            under_way.append(stage)
        elif stage in STAGES and text.startswith("finished"):
            under_way.pop()
            last = "record" if stage == STAGES[-1] else f"after {stage}"
    return under_way[-1] if under_way else last


def test_killed_at_random_moments_a_run_ends_as_if_left_alone(
    small: Small,
    place_at: Callable[[Path], Place],
    tmp_path: Path,
    counted: Callable[[int, int], int],
    tally: Callable[[str], None],
    kill_moments: random.Random,
) -> None:
    begun = time.monotonic()
    assert small.start(place_at(tmp_path / "untouched")).end() == 0
    length = time.monotonic() - begun
    expected = small.alone.records(), small.alone.digests()
    assert len(expected[0]) == 1
    assert {name.partition("/")[0] for name in expected[1]} == set(STAGES) - {"given"}

    count, stages = counted(5, 50), Counter[str]()
    for trial in range(20 * count):
        number = stages.total()
        place = place_at(tmp_path / f"killed {trial}")
        begun, run = time.monotonic(), small.start(place)
        moment = (number + kill_moments.random()) / count * length  # uniform, one in each of `count` equal parts
        while time.monotonic() < begun + moment and run.end(block=False) is None:
            time.sleep(0.002)
        if run.kill() == 0:  # it was quicker than the one that was measured
            length = time.monotonic() - begun
            continue
        assert run.code == -signal.SIGKILL, run.lines()
        stages[stage_at(run.lines())] += 1
        again = small.start(place)
        assert again.end() == 0, again.lines()
        assert (place.records(), place.digests()) == expected, f"killed after {moment:.3f} s"
        assert place.left_over() == [], f"killed after {moment:.3f} s"
        if stages.total() == count:
            break
    hit = ", ".join(f"{stage} {hits}" for stage, hits in stages.most_common())
    tally(f"killed (kill -9) at {count} random moments of a run: {count} same records and artifacts; hit: {hit}")
    assert stages.total() == count


@pytest.mark.parametrize("written", [False, True])
def test_killed_while_it_writes_an_artifact_nothing_of_it_is_left(tmp_path: Path, written: bool) -> None:
    """The process ends before the first byte (the kernel refuses the size of the file), or before the rename."""

    def build(size: int) -> Callable[[Checkpoint], tuple[dict[str, torch.Tensor], dict[str, Any]]]:
        return lambda checkpoint: ({"x": torch.zeros(size, dtype=torch.uint8)}, {})

    def kill(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    folder, limit = tmp_path / "teacher", 2**20
    process = os.fork()
    if process == 0:
        with mock.patch.object(Path, "replace", kill):
            if not written:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            Cache(tmp_path).get("teacher", {}, build(4 * limit))
        os._exit(0)
    ended = -signal.SIGKILL if written else -signal.SIGXFSZ
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == ended
    (room,) = folder.iterdir()
    (left,) = room.iterdir()
    assert room.suffix == ".partial"
    assert (left.stat().st_size > 4 * limit) == written
    actual = Cache(tmp_path).get("teacher", {}, build(10))
    assert list(folder.iterdir()) == [actual.path]
