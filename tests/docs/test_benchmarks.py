"""benchmarks/run.py, at sizes of no meaning: what measures the code still fits it, and both sides still agree."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = """
import inspect, sys
from importlib import import_module
from pathlib import Path

import pytest
sys.path.insert(0, sys.argv[1])
import measuring, networks, run
for part in run.PARTS:
    inspect.signature(import_module(part).measure).bind(1)
measuring.RESULTS = Path(sys.argv[2])
networks.CASES = tuple(networks.Case(name, size=8, real=4, ipc=1, network="convnet-d1") for name in ("dm", "dc"))
run.main(["--only", "networks", "--repetitions", "1"])
"""


@pytest.mark.slow
def test_a_part_is_measured_written_and_shown(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SMALL, str(BENCHMARKS), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    (written,) = tmp_path.iterdir()
    actual = json.loads(written.read_text())
    assert written.name == "networks-cpu.json"
    assert actual["device"]["threads"] == 1
    assert actual["versions"]["torch"]
    dm, dc = actual["rows"]
    assert (dm["part"], dc["part"]) == ("dm step", "dc step")
    for row in (dm, dc):
        assert min(row["ours"], row["reference"], row["limit"]) > 0
        assert float(row["agreement"].rpartition(" ")[2]) < 1e-4
        faster = f"{row['reference'] / row['ours']:.2f}"
        (line,) = [line for line in done.stdout.partition("all parts")[2].splitlines() if row["part"] in line]
        assert [cell.strip() for cell in line.strip("|").split("|")][-2:] == [faster, row["agreement"]]


def test_the_comparison_with_dd_ranking_is_that_of_the_committed_result():
    """The page has the table that the script prints."""
    module = runpy.run_path(str(BENCHMARKS / "peers" / "dd_ranking.py"))
    rows = module["read"](module["RESULT"])
    assert len(rows) == 3 * (5 + 5 * 4 + 2)
    page = (BENCHMARKS.parent / "docs" / "evaluating-sets.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in module["table"](rows).splitlines() if line.startswith("|") and line not in page] == []
