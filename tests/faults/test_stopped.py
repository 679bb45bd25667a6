"""Runs that are stopped by a signal or the time limit save a checkpoint and resume from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 900.0


class Run:
    """One `ddbench run` of a method on digits in a process of its own."""

    def __init__(self, folder: Path, *more: str, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "ddbench", "run", "--dataset", "digits", "--ipc", "1", "--recipe", "smoke"]
        command += ["--device", "cpu", "--precision", "fp32", "--image-size", "8", "--student", "convnet-d2"]
        command += ["--set", "evaluator.epochs=2", "--set", "distill.checkpoint_every=100000", *more]
        command += ["--cache-dir", str(folder / "cache"), "--results-dir", str(folder / "results")]
        folder.mkdir(exist_ok=True)
        self.log = folder / "log"
        with self.log.open("wb") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=environment)

    def lines(self) -> list[str]:
        return self.log.read_text().rstrip().splitlines()

    def record(self) -> dict[str, Any]:
        assert self.process.wait(PATIENCE) == 0, self.lines()
        (path,) = (self.folder / "results" / "records").glob("*.json")
        return {name: json.loads(path.read_text())[name] for name in ("distilled_digest", "metrics", "keys")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        ("--method", "sre2l", "--set", "method.steps=40"),
        ("--method", "dm", "--evaluator", "hard", "--set", "method.steps=40"),
        ("--method", "dc", "--evaluator", "hard", "--set", "method.iterations=20"),
    ],
)
def test_a_method_stopped_in_its_loop_goes_on_from_there(
    tmp_path: Path, method: tuple[str, ...], stop_at: Callable[..., dict[str, str]]
) -> None:
    run = Run(tmp_path / "stopped", *method, environment=stop_at("distill", "step", 7, "SIGTERM"))
    assert run.process.wait(PATIENCE) == 143, run.lines()
    assert run.lines()[-1] == "ddbench: stopped by SIGTERM; run the same command again to resume"
    assert list((run.folder / "cache" / "checkpoints" / "distill").glob("[!.]*"))
    again = Run(tmp_path / "stopped", *method)
    assert again.record() == Run(tmp_path / "untouched", *method).record()
    assert any(line.startswith("distill ") and ": resumed" in line for line in again.lines())


@pytest.mark.slow
def test_the_time_limit_ends_a_run_at_any_stage(tmp_path: Path) -> None:
    run = Run(tmp_path, "--method", "random", "--set", "evaluator.epochs=100000", "--time-limit", "0.02")
    assert run.process.wait(PATIENCE) == 124, run.lines()
    assert run.lines()[-1] == "ddbench: stopped by the time limit; run the same command again to resume"


@pytest.mark.slow
def test_the_time_limit_ends_a_run_with_a_checkpoint(tmp_path: Path, stop_at: Callable[..., dict[str, str]]) -> None:
    long = ("--method", "random", "--evaluator", "hard", "--set", "evaluator.epochs=100000")
    # SIGALRM is what the timer of the limit sends.
    alarm = stop_at("evaluate", "step", 3, "SIGALRM")
    run = Run(tmp_path / "limited", *long, "--time-limit", "600", environment=alarm)
    assert run.process.wait(PATIENCE) == 124, run.lines()
    assert run.lines()[-1] == "ddbench: stopped by the time limit; run the same command again to resume"
    assert list((run.folder / "cache" / "checkpoints" / "evaluate").glob("[!.]*"))
