"""Killed for real and run again: the record is that of a run that nobody touched."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ddbench.storage.cache import read_tensors

STEPS = 60
COMMAND = [
    *(sys.executable, "-m", "ddbench", "run", "--method", "wmdd", "--dataset", "digits", "--ipc", "2"),
    *("--recipe", "smoke", "--arch", "convnet-bn-d3", "--device", "cpu", "--precision", "fp32"),
    *("--set", f"method.steps={STEPS}", "--set", "distill.checkpoint_every=5", "--set", "evaluator.epochs=20"),
]
PATIENCE = 120.0


class Run:
    """One `ddbench run` of the experiment above in a process of its own, its messages in a file."""

    def __init__(self, cache: Path, results: Path) -> None:
        self.cache, self.results = cache, results
        self.log = cache.with_suffix(".log")
        command = [*COMMAND, "--cache-dir", str(cache), "--results-dir", str(results)]
        with self.log.open("wb") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=environment)

    def said(self, text: str) -> bool:
        return text in self.log.read_text()

    def step(self) -> int:
        """The step of the recover checkpoint; 0 without one."""
        steps = [0]
        for path in (self.cache / "checkpoints" / "distill").glob("[!.]*"):
            found = read_tensors(path)
            steps.append(0 if found is None else int(found[1]["step"]))
        return max(steps)

    def distilled(self) -> bool:
        return any((self.cache / "distill").glob("[!.]*"))

    def until(self, reached: Callable[["Run"], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not reached(self):
            assert self.process.poll() is None, f"the run ended too early: {self.log.read_text()}"
            assert time.monotonic() < deadline, f"the run did not get there: {self.log.read_text()}"
            time.sleep(0.005)

    def stop(self, how: signal.Signals, delay: float) -> int:
        """Waits, signals, and returns the exit status."""
        time.sleep(delay)
        self.process.send_signal(how)
        return self.process.wait(PATIENCE)

    def record(self) -> dict[str, Any]:
        """Of the run that ends by itself."""
        assert self.process.wait(PATIENCE) == 0, self.log.read_text()
        (path,) = (self.results / "records").glob("*.json")
        record: dict[str, Any] = json.loads(path.read_text())
        return record


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Run]]:
    runs: list[Run] = []

    def begin(name: str) -> Run:
        runs.append(Run(tmp_path / name, tmp_path / f"{name} results"))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()


@pytest.mark.slow
def test_killed_at_random_moments_a_run_ends_with_the_bytes_of_an_uninterrupted_one(
    start: Callable[[str], Run],
) -> None:
    seed = int(os.environ.get("DDBENCH_KILL_SEED", random.SystemRandom().randrange(10**6)))
    print(f"kill points of DDBENCH_KILL_SEED={seed}")
    draw = random.Random(seed)
    untouched = start("untouched")

    for stage in ("teacher", "statistics"):
        run = start("killed")
        run.until(lambda run, stage=stage: run.said(f"{stage} "))  # type: ignore[misc]
        assert run.stop(signal.SIGKILL, draw.uniform(0, 0.3)) == -signal.SIGKILL
        assert not run.step()

    reached = 0
    for step, how, status in (
        (draw.randrange(5, 20), signal.SIGKILL, -signal.SIGKILL),
        (draw.randrange(20, 35), signal.SIGINT, 130),
        (draw.randrange(35, 50), signal.SIGKILL, -signal.SIGKILL),
    ):
        run, goal = start("killed"), max(step, reached + 1)
        run.until(lambda run, goal=goal: run.step() >= goal)  # type: ignore[misc]
        assert run.stop(how, draw.uniform(0, 0.05)) == status
        assert not run.distilled(), "this kill came after recover"
        assert run.said("distill wmdd 1/1: resumed") == (reached > 0)
        reached = run.step()
        if how == signal.SIGINT:
            lines = run.log.read_text().rstrip().splitlines()
            assert lines[-1] == "ddbench: stopped by Ctrl-C; run the same command again to resume"
            assert "Traceback" not in run.log.read_text()

    run = start("killed")
    run.until(lambda run: run.said("evaluate "))
    assert run.said("distill wmdd 1/1: resumed")
    assert run.stop(signal.SIGKILL, draw.uniform(0, 0.2)) == -signal.SIGKILL
    assert run.distilled()
    assert run.step() == 0, "the checkpoint outlived what it was for"

    ended, expected = start("killed").record(), untouched.record()
    assert not untouched.said("resumed")
    for part in ("distilled_digest", "keys", "metrics", "teacher", "feature_transport_cost", "name"):
        assert ended[part] == expected[part], part
