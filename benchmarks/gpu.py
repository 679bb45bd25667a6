"""What is asked of a GPU: 2000 recover steps at IPC 1 and throughput at batch 100 at 224 px, then the paper's recipe.

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
from recover import WAYS, Case, of

from ddbench.results import records


def stepping(size: int, steps: int) -> list[Row]:
    """The whole loop at IPC 1, each way once, after a first step that compiles; beside it the same steps bare."""
    rows = []
    for name, way in WAYS.items():
        case = Case(10, size, device(), steps=1)
        case.ours(*way)
        case.limit()
        case.steps, case.settings = steps, case.settings.model_copy(update={"steps": steps})
        taken = seconds(lambda case=case, way=way: case.ours(*way))  # type: ignore[misc]
        text = f"{steps} steps, IPC 1, 10 x 3 x {size} x {size}, {name}"
        rows.append(Row("recover", text, taken, limit=seconds(case.limit), agreement="; ".join(case.said)))
    return rows


def recipe(asked: argparse.Namespace, ipc: int) -> Row:
    """`ddbench run` of the whole recipe: seconds, accuracy and where the time went, as its record has them."""
    command = [sys.executable, "-m", "ddbench", "run", "--method", "wmdd", "--dataset", asked.dataset]
    command += ["--ipc", str(ipc), "--recipe", asked.recipe, "--image-size", str(asked.size)]
    command += ["--results-dir", str(asked.results_dir), "--cache-dir", str(asked.cache_dir), *asked.options]
    command += ["--data-dir", str(asked.data_dir)] if asked.data_dir else []
    start = time.perf_counter()
    subprocess.run(command, check=True)
    taken = time.perf_counter() - start
    found = max(records.read_all(asked.results_dir / "records"), key=lambda record: record.created)
    stages = ", ".join(f"{stage} {spent:.0f} s" for stage, spent in found.seconds.items())
    case = f"wmdd, {asked.dataset}, {asked.size} px, IPC {ipc}, recipe {asked.recipe}"
    return Row("whole recipe", case, taken, agreement=f"top-1 {found.metrics.top1_last:.2f}; {stages}")


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
    asked = parser.parse_args()
    rows = stepping(asked.size, asked.steps) + of(Case(100, asked.size, device()), repetitions=5)
    write("gpu", rows)  # what has been measured is kept should the rest not be reached
    write("gpu", rows + [recipe(asked, ipc) for ipc in asked.ipc])
