"""Benchmarks of a GPU: 2000 recover steps at IPC 1, recover throughput at batch 100 and 224 px, the paper's recipe.

    python benchmarks/gpu.py --data-dir DATA                        # ImageNette, 224 px, IPC 1 and 10, both whole
    python benchmarks/gpu.py --dataset digits --size 32 --steps 5 --recipe smoke --options --set method.steps=5

Everything after --options goes to `ddbench run`. Writes results/benchmarks/gpu-DEVICE.json; records are kept in
--results-dir.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from measuring import Row, device, seconds, write
from recover import VARIANTS, Case, of

from ddbench.results import records


def stepping(size: int, steps: int) -> list[Row]:
    """Measures the whole loop at IPC 1 once per variant, after a first step that compiles; limit: bare steps."""
    rows = []
    for name, way in VARIANTS.items():
        case = Case(10, size, device(), steps=1)
        case.ours(*way)
        case.limit()
        case.steps, case.settings = steps, case.settings.model_copy(update={"steps": steps})
        taken = seconds(lambda case=case, way=way: case.ours(*way))  # type: ignore[misc]
        text = f"{steps} steps, IPC 1, 10 x 3 x {size} x {size}, {name}"
        rows.append(Row("recover", text, taken, limit=seconds(case.limit), agreement="; ".join(case.notes)))
    return rows


def recipe(arguments: argparse.Namespace, ipc: int) -> Row:
    """Runs `ddbench run` with the whole recipe; reports seconds, accuracy and stage times from its record."""
    command = [sys.executable, "-m", "ddbench", "run", "--method", "wmdd", "--dataset", arguments.dataset]
    command += ["--ipc", str(ipc), "--recipe", arguments.recipe, "--image-size", str(arguments.size)]
    command += [
        "--results-dir",
        str(arguments.results_dir),
        "--cache-dir",
        str(arguments.cache_dir),
        *arguments.options,
    ]
    command += ["--data-dir", str(arguments.data_dir)] if arguments.data_dir else []
    start = time.perf_counter()
    subprocess.run(command, check=True)
    taken = time.perf_counter() - start
    newest = max(records.read_all(arguments.results_dir / "records"), key=lambda record: record.created)
    stages = ", ".join(f"{stage} {spent:.0f} s" for stage, spent in newest.seconds.items())
    case = f"wmdd, {arguments.dataset}, {arguments.size} px, IPC {ipc}, recipe {arguments.recipe}"
    return Row("whole recipe", case, taken, agreement=f"top-1 {newest.metrics.top1_last:.2f}; {stages}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="imagenette")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--recipe", default="paper")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--cache-dir", type=Path, default=Path("gpu-cache"))
    parser.add_argument("--results-dir", type=Path, default=Path("results"))
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[])
    arguments = parser.parse_args()
    rows = stepping(arguments.size, arguments.steps) + of(Case(100, arguments.size, device()), repetitions=5)
    write("gpu", rows)  # keep these rows if the rest fails
    write("gpu", rows + [recipe(arguments, ipc) for ipc in arguments.ipc])
