"""Cold start: `ddbench --help`, and a run with a cached teacher until the end of its first recover step."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import count

from measuring import Row, interleaved, write

DDBENCH = (sys.executable, "-c", "from ddbench.cli.main import main; main()")
RUN = "run --method wmdd --dataset digits --ipc 1 --recipe smoke --set method.steps=1"
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def done(*command: str) -> None:
    """Runs a command to its end."""
    subprocess.run(command, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def first_step(*command: str) -> float:
    """Returns the seconds from the start of a run until its progress reports stored images, after one step."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("evaluate"):
                taken = time.perf_counter() - start
                process.kill()
                return taken
    raise SystemExit(f"{' '.join(command)}: ended before its first step")


def measure(repetitions: int) -> list[Row]:
    """Measures both in separate processes; the limits are the starts of Python and of PyTorch."""
    taken = interleaved(
        {
            "help": lambda: done(*DDBENCH, "--help"),
            "python": lambda: done(sys.executable, "-c", "pass"),
            "torch": lambda: done(sys.executable, "-c", "import torch"),
        },
        repetitions,
        warm=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = (*DDBENCH, *RUN.split(), "--cache-dir", f"{folder}/cache", "--results-dir", f"{folder}/results")
        done(*run)
        seeds = count(1)  # with a new seed, barycenters and images are computed again, the teacher is not
        steps = [first_step(*run, "--seed", str(next(seeds))) for _ in range(repetitions)]
    return [
        Row("startup", "ddbench --help; limit: python -c pass", taken["help"], limit=taken["python"]),
        Row(
            "startup",
            "first recover step, teacher cached, digits; limit: import torch",
            statistics.median(steps),
            limit=taken["torch"],
        ),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    write("startup", measure(parser.parse_args().repetitions))
