"""Commands that only read: seconds, CPU time and peak memory with many records, copies of the committed ones."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import RESULTS, Row, write

from ddbench.results import verified_json

COMMITTED = RESULTS.parent / "reference"
COUNTS = (200, 5000)
COMMANDS = (
    "list methods",
    "show",
    "records",
    "records --scores",
    "table comparison",
    "table regimes",
    "report",
    "leaderboard",
    "figure scaling",
)
PAGES = {"report": "results/report.html", "leaderboard": "site/index.html"}
MEGABYTE = 2**20
# A process of its own starts the command: on Linux, a peak includes that of the process that forks.
MEASURED = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]))
"""


def copies(folder: Path, count: int) -> None:
    """Writes `count` records: the committed ones, then copies with other names, seeds and distilled sets."""
    sources = [
        verified_json.load(path.read_text()) for path in sorted(COMMITTED.glob("imagenette-64px*/records/*.json"))
    ]
    folder.mkdir(parents=True)
    for number in range(count):
        record, turn = sources[number % len(sources)], number // len(sources)
        name = f"{record['name'].rpartition('-')[0]}-{number:08x}"
        digest = f"{turn:08x}{record['distilled_digest'][8:]}" if turn else record["distilled_digest"]
        changed = {"name": name, "seed": record["seed"] + 1000 * turn, "distilled_digest": digest}
        (folder / f"{name}.json").write_text(verified_json.dump({**record, **changed}))


def run(command: str, root: Path) -> tuple[float, float, int]:
    """Returns the seconds, the CPU seconds and the peak memory in bytes of a command in its own process."""
    process = [sys.executable, "-m", "ddbench", *command.split()]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *process], cwd=root, check=True, stdout=subprocess.PIPE, text=True
    )
    seconds, cpu, memory = json.loads(done.stdout)
    return seconds, cpu, memory


def measure(repetitions: int) -> list[Row]:
    """Measures each command with each number of records. The limit is the time to parse the JSON of the records."""
    rows = []
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            copies(root / "results" / "records", count)
            start = time.perf_counter()
            for path in (root / "results" / "records").iterdir():
                json.loads(path.read_bytes())
            limit = time.perf_counter() - start
            for command in COMMANDS:
                taken = sorted(run(command, root) for _ in range(repetitions))
                seconds, cpu, memory = taken[len(taken) // 2]
                about = f"CPU {cpu:.1f} s, peak {memory / MEGABYTE:.0f} MB"
                if page := PAGES.get(command):
                    about += f", page {(root / page).stat().st_size / MEGABYTE:.1f} MB"
                rows.append(Row("reading", f"{command}, {count:,} records", seconds, limit=limit, agreement=about))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=1)
    write("reading", measure(parser.parse_args().repetitions))
