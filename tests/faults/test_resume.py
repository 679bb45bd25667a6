"""Killed for real and run again: the record is that of a run that nobody touched."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddbench.storage.artifacts import read_tensors

STEPS = 100
COMMAND = [
    *(sys.executable, "-m", "ddbench", "run", "--method", "wmdd", "--dataset", "digits", "--ipc", "2"),
    *("--recipe", "smoke", "--arch", "convnet-bn-d3", "--device", "cpu", "--precision", "fp32"),
    *("--set", f"method.steps={STEPS}", "--set", "distill.checkpoint_every=5", "--set", "evaluator.epochs=20"),
]


class Run:
    """One `ddbench run` of the experiment above in a process of its own, from start to end."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.cache, self.results = folder / "cache", folder / "results"
        command = [*COMMAND, "--cache-dir", str(self.cache), "--results-dir", str(self.results)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        self.code, self.log = done.returncode, done.stderr

    def step(self) -> int:
        """The step of the recover checkpoint; 0 without one."""
        steps = [0]
        for path in (self.cache / "checkpoints" / "distill").glob("[!.]*"):
            content = read_tensors(path)
            steps.append(0 if content is None else int(content[1]["step"]))
        return max(steps)

    def distilled(self) -> bool:
        return any((self.cache / "distill").glob("[!.]*"))

    def record(self) -> dict[str, Any]:
        """Of a run that ended by itself."""
        assert self.code == 0, self.log
        (path,) = (self.results / "records").glob("*.json")
        record: dict[str, Any] = json.loads(path.read_text())
        return record


@pytest.mark.slow
def test_killed_in_every_stage_a_run_ends_with_the_bytes_of_an_uninterrupted_one(
    tmp_path: Path, stop_at: Callable[[str, str, int, str], dict[str, str]]
) -> None:
    for stage in ("teacher", "statistics"):
        run = Run(tmp_path / "killed", stop_at(stage, "started", 1 if stage == "teacher" else 4, "SIGKILL"))
        assert run.code == -signal.SIGKILL, run.log
        assert not run.step()

    reached = 0
    kills = ((25, "SIGKILL", -signal.SIGKILL), (50, "SIGINT", 130), (75, "SIGKILL", -signal.SIGKILL))
    for step, name, status in kills:
        run = Run(tmp_path / "killed", stop_at("distill", "step", step, name))
        assert run.code == status, run.log
        assert not run.distilled()
        assert ("distill wmdd IPC 2 1/1: resumed" in run.log) == (reached > 0)
        assert reached < run.step() <= step + 1
        reached = run.step()
        if name == "SIGINT":
            lines = run.log.rstrip().splitlines()
            assert lines[-1] == "ddbench: stopped by Ctrl-C; run the same command again to resume"
            assert "Traceback" not in run.log

    run = Run(tmp_path / "killed", stop_at("evaluate", "step", 10, "SIGKILL"))
    assert run.code == -signal.SIGKILL, run.log
    assert "distill wmdd IPC 2 1/1: resumed" in run.log
    assert run.distilled()
    assert run.step() == 0, "the checkpoint outlived what it was for"

    untouched = Run(tmp_path / "untouched")
    assert "resumed" not in untouched.log
    ended, expected = Run(tmp_path / "killed").record(), untouched.record()
    for part in ("distilled_digest", "keys", "metrics", "teacher", "feature_transport_cost", "name"):
        assert ended[part] == expected[part], part
