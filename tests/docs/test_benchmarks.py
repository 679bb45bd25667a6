"""The benchmarks, at sizes of no meaning: what measures the code still fits it, and both sides still agree."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from ddbench.results.records import read_all

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

ON_A_GPU = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import gpu, measuring
gpu.VARIANTS = {name: way for name, way in gpu.VARIANTS.items() if not way[1]}  # compilation takes minutes on a CPU
gpu.COUNTS = (10,)
results, *options = sys.argv[2:]
for name, more in (("run", []), ("late", ["--minutes", "0", "--steps", "1"])):
    measuring.RESULTS = Path(results) / name
    sys.argv[1:] = [*options, *more]
    gpu.main()
"""


def run_script(script, *arguments):
    return subprocess.run(
        [sys.executable, "-c", script, str(BENCHMARKS), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.mark.slow
def test_a_part_is_measured_written_and_shown(tmp_path):
    done = run_script(SMALL, tmp_path)
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


@pytest.mark.slow(60)
def test_the_script_for_a_gpu_measures_every_cell_and_the_recover_loop(tmp_path):
    """Five steps at 16 px. A cut run keeps its rows: with no time left, no cell starts."""
    options = ["--dataset", "digits", "--size", 16, "--ipc", 1, "--recipe", "smoke", "--steps", 5]
    options += ["--cache-dir", tmp_path / "cache", "--results-dir", tmp_path / "results"]
    done = run_script(ON_A_GPU, tmp_path, *options)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "run" / "gpu-cpu.json").read_text())["rows"]
    cells = [row["case"] for row in rows if row["part"] == "cell"]
    methods = ["random, smoke", "wmdd, smoke", "wmdd, smoke + released", "sre2l, smoke"]
    assert cells == [f"{name}, 16 px, IPC 1, {protocol}" for name in methods for protocol in ("fkd", "soft", "hard")]
    top1s = [record.metrics.top1_last for record in read_all(tmp_path / "results" / "records")]
    assert [f"top-1 {top1:.2f}" for top1 in sorted(top1s)] == sorted(
        (row["agreement"].partition(",")[0] for row in rows[: len(cells)]), key=lambda text: float(text.split()[1])
    )
    assert all("s / iteration" in row["agreement"] for row in rows if row["case"].startswith(("wmdd", "sre2l")))
    steps = [row for row in rows if row["part"] == "recover step"]
    assert len(steps) == 2
    assert all(int(row["agreement"].split(" operators / step")[0]) > 1000 for row in steps)
    assert done.stdout.count("not started: ") == len(cells)


def test_the_comparison_with_dd_ranking_is_that_of_the_committed_result():
    """The page has the table that the script prints."""
    module = runpy.run_path(str(BENCHMARKS / "peers" / "dd_ranking.py"))
    rows = module["read"](module["RESULT"])
    assert len(rows) == 3 * (5 + 5 * 4 + 2)
    page = (BENCHMARKS.parent / "docs" / "evaluating-sets.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in module["table"](rows).splitlines() if line.startswith("|") and line not in page] == []


def committed(name):
    return json.loads((BENCHMARKS.parent / "results" / "benchmarks" / f"{name}.json").read_text())["rows"]


def seconds(value):
    return f"{value:.{0 if value >= 10 else 1 if value >= 1 else 2}f} s"


def test_the_tables_of_the_performance_page_are_those_of_the_committed_measurements():
    expected = []
    for row in committed("end_to_end-cpu-2-threads"):
        plain = f"{row['reference']:.0f} s | {row['reference'] / row['ours']:.1f}" if row["reference"] else " | "
        bare = f"{row['ours'] / row['limit']:.2f}" if row["limit"] else ""
        expected.append(f"| {row['case']} | {row['ours']:.0f} s | {plain} | {bare} |")
    for first, again in zip(*[iter(committed("folders-cpu"))] * 2, strict=True):
        cells = [f"{seconds(row['ours'])}, {row['agreement'].partition('+')[2]}" for row in (first, again)]
        expected.append(f"| {first['case'].partition(' ')[0]} | {' | '.join(cells)} |")
    for row in committed("estimates-cpu"):
        actual, estimated = row["ours"], row["limit"]
        memory, disk = re.search(r"memory (\S+ MB), disk (\S+ MB)", row["agreement"]).groups()
        sizes = f"{memory} | {disk}".replace("/", " / ")
        expected.append(f"| {actual:.1f} / {estimated:.1f} s = {actual / estimated:.2f} | {sizes} |")
    page = (BENCHMARKS.parent / "docs" / "performance.md").read_text(encoding="utf-8")
    assert [line for line in expected if line not in page] == []
