"""Runs that are stopped by a signal or the time limit save a checkpoint and resume from it."""

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

RUN = (
    *("run", "--dataset", "digits", "--ipc", "1", "--recipe", "smoke", "--device", "cpu", "--precision", "fp32"),
    *("--image-size", "8", "--student", "convnet-d2", "--set", "distill.checkpoint_every=100000"),
)
ENDLESS = ("--method", "random", "--set", "evaluator.epochs=100000")
AT_LIMIT = "ddbench: stopped by the time limit; run the same command again to resume"


@pytest.mark.parametrize(
    "method",
    [
        ("--method", "sre2l", "--set", "method.steps=40"),
        ("--method", "dm", "--evaluator", "hard", "--set", "method.steps=40"),
        ("--method", "dc", "--evaluator", "hard", "--set", "method.iterations=20"),
    ],
)
def test_a_method_stopped_in_its_loop_goes_on_from_there(
    tmp_path: Path,
    small: Small,
    place_at: Callable[[Path], Place],
    method: tuple[str, ...],
    stop_at: Callable[..., dict[str, str]],
) -> None:
    stopped, untouched = place_at(tmp_path / "stopped"), place_at(tmp_path / "untouched")

    def end(place: Place, environment: dict[str, str] | None = None) -> int | None:
        words = (*RUN, *method, "--set", "evaluator.epochs=2", *place.options)
        return small.command(place, *words, environment=environment).end()

    assert end(stopped, stop_at("distill", "step", 7, "SIGTERM")) == 143, stopped.lines()
    assert stopped.lines()[-1] == "ddbench: stopped by SIGTERM; run the same command again to resume"
    assert list((stopped.cache / "checkpoints" / "distill").glob("[!.]*"))
    for place in (stopped, untouched):
        assert end(place) == 0, place.lines()
    assert len(stopped.records()) == 1
    assert stopped.records() == untouched.records()
    assert any(line.startswith("distill ") and ": resumed" in line for line in stopped.lines())


def test_the_time_limit_ends_a_run_at_any_stage(
    tmp_path: Path, small: Small, place_at: Callable[[Path], Place]
) -> None:
    place = place_at(tmp_path)
    run = small.command(place, *RUN, *ENDLESS, *place.options, "--time-limit", "0.02")
    assert run.end() == 124, run.lines()
    assert run.lines()[-1] == AT_LIMIT


def test_the_time_limit_ends_a_run_with_a_checkpoint(
    tmp_path: Path, place_at: Callable[[Path], Place], stop_at: Callable[..., dict[str, str]]
) -> None:
    """In a process that saves its training every 20 seconds: what it saves here is what it had when it was stopped."""
    place = place_at(tmp_path)
    # SIGALRM is what the timer of the limit sends.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **stop_at("evaluate", "step", 3, "SIGALRM")}
    words = [sys.executable, "-m", "ddbench", *RUN, *ENDLESS, "--evaluator", "hard", *place.options]
    words += ["--time-limit", "600"]
    run = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 124, run.stderr
    assert run.stderr.splitlines()[-1] == AT_LIMIT
    assert list((place.cache / "checkpoints" / "evaluate").glob("[!.]*"))
