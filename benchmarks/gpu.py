"""Measures a GPU: the paper's recipe for wmdd (both formulas), sre2l and random, and the speed of the recover loop.

    python benchmarks/gpu.py --data-dir DATA                       # ImageNette, 224 px, IPC 1, 10 and 50
    python benchmarks/gpu.py --tar images-1.tar images-2.tar       # the same, from archives of images
    python benchmarks/gpu.py --dataset digits --size 32 --ipc 1 --recipe smoke --steps 5      # a try on a CPU

Each method is run under fkd, soft and hard. The order is IPC 1, then 10, then 50, so that a run that is cut has the
cheap cells of all methods. The rows are written to results/benchmarks/gpu-DEVICE.json after every cell, and the records
to --results-dir. The same command resumes. No cell starts after --minutes.
"""

from __future__ import annotations

import argparse
import itertools
import tarfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from measuring import Row, device, seconds, write
from recover import VARIANTS, Case

import ddbench

if TYPE_CHECKING:
    from pandas import Series

PROTOCOLS = ("fkd", "soft", "hard")
METHODS = (("random",), ("wmdd",), ("wmdd", "released"), ("sre2l",))
"""Method, and a recipe besides --recipe. The first one trains the teacher."""
COUNTS = (10, 100)
"""Images of a step of the recover loop: those of ten classes at IPC 1 and 10."""
MIB = 2**20


def unpack(archives: list[Path], folder: Path) -> Path:
    """Extracts archives of images into a folder and returns it."""
    for archive in archives:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    return folder


def describe(record: Series[Any]) -> str:
    """Returns a record's top-1, speed of the optimisation loop, memory and seconds of each stage as text."""
    parts = [f"top-1 {record['top1_last']:.2f}"]
    if record["seconds_per_iteration"]:
        images = record["distilled_images"] / record["seconds_per_iteration"]
        parts.append(f"{record['seconds_per_iteration']:.4f} s / iteration, {images:.0f} images / s")
    parts.append(f"{max(record['peak_memory'].values()) / MIB:.0f} MiB")
    return ", ".join([*parts, *(f"{stage} {spent:.0f} s" for stage, spent in record["seconds"].items())])


def run_cells(arguments: argparse.Namespace, end: float) -> Iterator[Row]:
    """Runs one IPC, method and protocol at a time and yields a row after each.

    Args:
        arguments: The arguments of the command line.
        end: The time, as of `time.monotonic`, after which no cell starts.
    """
    for ipc, (method, *recipes), protocol in itertools.product(arguments.ipc, METHODS, PROTOCOLS):
        recipes = [arguments.recipe, *recipes]
        case = f"{method}, {' + '.join(recipes)}, {arguments.size} px, IPC {ipc}, {protocol}"
        if time.monotonic() > end:
            print(f"not started: {case}", flush=True)
            continue
        start = time.perf_counter()
        frame = ddbench.run(
            method,
            arguments.dataset,
            ipc,
            recipe=recipes,
            evaluator=protocol,
            image_size=arguments.size,
            results_dir=arguments.results_dir,
            cache_dir=arguments.cache_dir,
            data_dir=arguments.data_dir,
        )
        yield Row("cell", case, time.perf_counter() - start, agreement=describe(frame.iloc[0]))


def count_launches(case: Case, way: tuple[str, bool]) -> str:
    """Counts the kernel launches of one step. Without CUDA, counts the operators instead."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if case.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    case.ours(*way)
    with torch.profiler.profile(activities=activities) as profile:
        case.ours(*way)
    events = profile.key_averages()
    names = ("Launch",) if case.device.type == "cuda" else ("aten::",)
    count = sum(event.count for event in events if any(name in event.key for name in names))
    return f"{count / case.steps:.0f} {'launches' if case.device.type == 'cuda' else 'operators'} / step"


def measure_steps(size: int, steps: int) -> Iterator[Row]:
    """Measures the recover loop at IPC 1 and 10 in every variant. The limit is the bare passes in float32."""
    for count in COUNTS:
        case = Case(count, size, device(), steps=min(steps, 3))
        launches = {name: count_launches(case, way) for name, way in VARIANTS.items()}
        case.limit()
        case.steps, case.settings = steps, case.settings.model_copy(update={"steps": steps})
        limit = seconds(case.limit) / steps
        for name, way in VARIANTS.items():
            case.notes.clear()
            taken = seconds(partial(case.ours, *way)) / steps
            text = f"{count} x 3 x {size} x {size}, {name}"
            notes = [launches[name], f"{count / taken:.0f} images / s", *case.notes]
            yield Row("recover step", text, taken, limit=limit, agreement="; ".join(notes))


def main() -> None:
    """Measures everything and writes the rows after each cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="imagenette")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=200, help="steps of the recover loop that are timed")
    parser.add_argument("--recipe", default="paper")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--minutes", type=float, default=12, help="time after which no cell starts (default: 12)")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--tar", type=Path, nargs="+", default=[], help="archives that hold the data folder")
    parser.add_argument("--cache-dir", type=Path, default=Path("gpu-cache"))
    parser.add_argument("--results-dir", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    if arguments.tar:
        arguments.data_dir = unpack(arguments.tar, arguments.data_dir or arguments.cache_dir / "images")
    rows: list[Row] = []
    for row in run_cells(arguments, end):
        rows.append(row)
        write("gpu", rows)
    for row in measure_steps(arguments.size, arguments.steps):
        rows.append(row)
        write("gpu", rows)


if __name__ == "__main__":
    main()
