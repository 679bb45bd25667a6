"""A grid of many classes on a local Ray cluster of two nodes: wall time against workers, memory of workers and driver.

Writes images once, noise around one pattern per class. Then runs everything from the teacher to the students for each
number of workers, in a separate cache. `python benchmarks/thousand_classes.py --classes 1000 --workers 1 2 4`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}

import numpy as np
import psutil
import ray
import torch
from PIL import Image
from ray.cluster_utils import Cluster
from tabulate import tabulate

from ddbench.core.files import atomic_write
from ddbench.nn import device
from ddbench.results import provenance, records

RESULTS = Path(__file__).parent.parent / "results" / "scaling"
SIDE = 32
EVERY = 0.25
"""Seconds between two readings of the memory."""
STAGES = ("teacher", "statistics", "distill", "evaluate", "measure")
SETTINGS = {"teacher.batch_size": 256, "wmdd.batch_size": 10, "evaluator.batch_size": 100}


def write_images(root: Path, classes: int, train: int, val: int) -> None:
    """Writes an image folder: each class is a pattern of 4 x 4 colours, its images are that pattern with noise."""
    for label in range(classes):
        draw = np.random.default_rng(label)
        pattern = draw.integers(40, 216, (4, 4, 3)).repeat(SIDE // 4, 0).repeat(SIDE // 4, 1)
        for split, count in (("train", train), ("val", val)):
            folder = root / split / f"class-{label:04d}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = (pattern + draw.normal(0, 25, pattern.shape)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")


def private_mb(process: psutil.Process) -> float:
    """Returns the private memory of a process in MiB, without mapped cache files."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0


def busy(raylets: list[psutil.Process]) -> Iterator[tuple[psutil.Process, str]]:
    """Yields each busy worker and its stage, which is in the process title that Ray sets."""
    for raylet in raylets:
        for process in raylet.children():
            title = " ".join(process.cmdline())
            stage = title.removeprefix("ray::").split(" ")[0]
            if title.startswith("ray::") and stage in STAGES:
                yield process, stage


def run(images: Path, folder: Path, workers: int, students: int) -> dict[str, Any]:
    """Runs from an empty cache; returns the seconds in all and of each stage, and the memory over time."""
    quiet = {"object_store_memory": 2**27}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": -(-workers // 2), "include_dashboard": False, **quiet}
    )
    nodes = [cluster.head_node, cluster.add_node(num_cpus=workers // 2, **quiet)]
    raylets = [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in nodes]
    command = [sys.executable, "-m", "ddbench", "run", "--method", "wmdd", "--dataset", f"imagefolder:{images}"]
    command += ["--ipc", "1", "--seeds", str(students), "--recipe", "smoke", "--device", "cpu", "--precision", "fp32"]
    command += ["--executor", "ray", "--ray-address", cluster.address]
    command += ["--cache-dir", str(folder / "cache"), "--results-dir", str(folder / "results")]
    command += [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    seen: dict[str, list[tuple[float, float]]] = defaultdict(list)
    begun = time.perf_counter()
    with (folder / "log").open("w") as log:
        driver = psutil.Popen(command, stdout=log, stderr=log)
        while driver.poll() is None:
            now = time.perf_counter() - begun
            try:
                seen["driver"].append((now, private_mb(driver)))
                for process, stage in busy(raylets):
                    seen[stage].append((now, private_mb(process)))
            except (psutil.Error, OSError):
                pass  # the process ended while it was read
            time.sleep(EVERY)
    seconds = time.perf_counter() - begun
    cluster.shutdown()
    if driver.returncode:
        sys.exit((folder / "log").read_text()[-3000:])
    sets = {record.distilled_digest for record in records.read_all(folder / "results" / "records", print)}
    assert len(sets) == 1
    return {
        "workers": workers,
        "seconds": round(seconds, 1),
        "stage_seconds": {stage: round(seen[stage][-1][0] - seen[stage][0][0], 1) for stage in STAGES if seen[stage]},
        "worker_mb": {stage: thirds(seen[stage]) for stage in STAGES if seen[stage]},
        "driver_mb": thirds(seen["driver"]),
        "distilled_digest": sets.pop(),
    }


def thirds(samples: list[tuple[float, float]]) -> list[int]:
    """Returns the peak in the first, second and last third of the time; equal thirds mean no growth."""
    start, length = samples[0][0], samples[-1][0] - samples[0][0] or 1.0
    parts: list[list[float]] = [[], [], []]
    for moment, value in samples:
        parts[min(2, int(3 * (moment - start) / length))].append(value)
    return [round(max(part, default=0.0)) for part in parts]


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--images", type=int, default=20, help="training images a class")
    parser.add_argument("--students", type=int, default=4)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_images(root / "images", arguments.classes, arguments.images, 2)
        rows = []
        for workers in arguments.workers:
            (root / str(workers)).mkdir()
            rows.append(run(root / "images", root / str(workers), workers, arguments.students))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    assert len({row["distilled_digest"] for row in rows}) == 1
    content = {
        "classes": arguments.classes,
        "images": arguments.images,
        "students": arguments.students,
        "settings": {"recipe": "smoke", **SETTINGS},
        "device": {**device.describe(torch.device("cpu")), "cores": os.cpu_count(), "ray": ray.__version__},
        **provenance.provenance(),
        "runs": rows,
    }
    path = arguments.output / f"classes-{arguments.classes}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")
    parallel = ("statistics", "distill", "evaluate")
    table = [
        [
            row["workers"],
            row["seconds"],
            *(row["stage_seconds"].get(stage, "") for stage in STAGES),
            " / ".join(map(str, row["driver_mb"])),
            *(" / ".join(map(str, row["worker_mb"].get(stage, []))) for stage in parallel),
        ]
        for row in rows
    ]
    heads = ["workers", "seconds", *STAGES, "driver MB", *(f"{stage} MB" for stage in parallel)]
    print(tabulate(table, headers=heads, tablefmt="simple"))
    print("MB: peak of the private memory of a process in the first, second and last third of the time")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
