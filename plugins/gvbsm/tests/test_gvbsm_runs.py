"""G-VBSM from the command line: teachers and statistics are computed once; runs are resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Shell

POOL = "[convnet-bn-d1,convnet-d1]"
RUN = (
    *("--dataset", "digits", "--arch", "convnet-bn-d1", "--set", f"evaluator.teachers={POOL}"),
    *("--set", "evaluator.epochs=1", "--set", "runtime.threads=1"),
)
GVBSM = (*RUN, "--method", "gvbsm", "--set", f"gvbsm.teachers={POOL}")


def records(results: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((results / "records").glob("*.json"))]


def artifacts(cache: Path, stage: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (cache / stage).glob("[!.]*.safetensors")}


@pytest.mark.slow
def test_teachers_and_statistics_are_computed_once_for_two_ipcs_and_random_images(shell: Shell) -> None:
    (plan,) = shell.run(*GVBSM, "--ipc", "1", "--dry-run").rows
    assert plan["teacher"] == plan["convolutions"] == plan["distill"] == "to do"
    shell.run(*GVBSM, "--ipc", "1")
    stages = {stage: artifacts(shell.cache, stage) for stage in ("teacher", "convolutions")}
    assert [len(paths) for paths in stages.values()] == [2, 2]
    shell.run(*GVBSM, "--ipc", "1", "--ipc", "2")
    shell.run(*RUN, "--method", "random", "--evaluator", "gvbsm", "--ipc", "1")
    assert stages == {stage: artifacts(shell.cache, stage) for stage in stages}
    found = {(record["method"], record["ipc"]): record for record in records(shell.results)}
    assert found.keys() == {("gvbsm", 1), ("gvbsm", 2), ("random", 1)}
    used_by = {key: record["teacher"]["others"]["convnet-d1"]["used_by"] for key, record in found.items()}
    assert used_by == {("gvbsm", 1): ["method", "evaluator"], ("gvbsm", 2): ["method", "evaluator"],
                       ("random", 1): ["evaluator"]}  # fmt: skip
    (forced,) = shell.run(*GVBSM, "--ipc", "1", "--force", "convolutions", "--dry-run").rows
    assert (forced["teacher"], forced["convolutions"], forced["distill"]) == ("cached", "to do", "to do")


@pytest.mark.slow
def test_killed_in_the_loop_a_run_gives_the_same_set(shell: Shell, stop_at: Callable[..., dict[str, str]]) -> None:
    shell.run(*GVBSM, "--ipc", "1")
    (expected,) = {record["distilled_digest"] for record in records(shell.results)}
    for path in (shell.cache / "distill").iterdir():
        path.unlink()
    environment = {**os.environ, **stop_at("distill", "step", 12, "SIGKILL")}
    environment["PYTHONPATH"] = os.pathsep.join((environment["PYTHONPATH"], os.environ.get("PYTHONPATH", "")))
    fast = ("--recipe", "smoke", "--image-size", "8", "--device", "cpu", "--precision", "fp32", "--ipc", "1")
    fast += ("--set", "teacher.batch_size=256")
    places = ("--cache-dir", str(shell.cache), "--results-dir", str(shell.results))
    command = [sys.executable, "-m", "ddbench", "run", *GVBSM, *fast, *places]
    killed = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not artifacts(shell.cache, "distill")
    assert "resumed" in shell.run(*GVBSM, "--ipc", "1").err
    assert {record["distilled_digest"] for record in records(shell.results)} == {expected}
