"""The estimates of time, memory and disk against the runs: CPU seconds of one thread, each run in its own process."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from measuring import Row, write

from ddbench.core import clock
from ddbench.nn import device as devices
from ddbench.pipeline.estimate import Estimate
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.run import finish_cell
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache

QUICK = Request((), (), (), ("quick",), device="cpu", assignments=("runtime.threads=1",))
PHOTOS = "photos"
"""Stands for a folder of some images of ImageNette from DDBENCH_DATA; without it, its commands are left out."""
IMAGES = {"train": 40, "val": 10}
"""Images of each class in that folder."""
COMMANDS: tuple[tuple[str, str, int, str, tuple[str, ...]], ...] = (
    # method, dataset, IPC, protocol, settings that shorten the recipe
    ("random", "digits", 10, "hard", ()),
    ("wmdd", "digits", 10, "fkd", ("teacher.epochs=5", "wmdd.steps=100", "evaluator.epochs=100")),
    ("dm", "digits", 1, "dsa", ("dm.steps=30", "evaluator.epochs=300")),
    ("rded", "digits", 10, "rded", ("teacher.epochs=5", "evaluator.epochs=100")),
    ("herding", "digits", 10, "gvbsm", ("teacher.epochs=5", "evaluator.teachers=[convnet-d3]", "evaluator.epochs=100")),
    ("sre2l", PHOTOS, 1, "soft", ("teacher.epochs=6", "sre2l.steps=150", "evaluator.epochs=60")),
    ("random", PHOTOS, 10, "fkd", ("teacher.epochs=4", "evaluator.epochs=20")),
)


@contextmanager
def photos() -> Iterator[Path]:
    """Provides a folder of links to the first images of each class of ImageNette."""
    source = Path(os.environ["DDBENCH_DATA"]) / "imagenette2"
    with tempfile.TemporaryDirectory() as name:
        for split, count in IMAGES.items():
            for label in sorted((source / split).iterdir()):
                folder = Path(name) / "photos" / split / label.name
                folder.mkdir(parents=True)
                for image in sorted(label.iterdir())[:count]:
                    (folder / image.name).symlink_to(image)
        yield Path(name) / "photos"


def compare(number: int, dataset: str) -> dict[str, Any]:
    """Estimates a command in a new cache, then runs it. Returns both, with seconds by stage, and bytes."""
    method, _, ipc, protocol, settings = COMMANDS[number]
    request = replace(QUICK, methods=(method,), datasets=(dataset,), ipcs=(ipc,), evaluators=(protocol,))
    request = replace(request, assignments=(*QUICK.assignments, *settings))
    clock.now = time.process_time
    registry = PluginRegistry()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cells, workspace = experiments(request, registry), Workspace(registry, Cache(folder / "cache"), None)
        pipeline, estimate = Pipeline(workspace, cells[0]), Estimate(time.process_time)
        start = time.process_time()
        estimate.add(pipeline)
        taken = time.process_time() - start
        start = time.process_time()
        record, _ = finish_cell(pipeline, folder / "results", lambda _: None)
        seconds = time.process_time() - start
        stored = sum(path.stat().st_size for path in (folder / "cache").rglob("*") if path.is_file())
        with devices.measured(pipeline.device) as cost:
            pass
    return {
        "estimate": {"seconds": estimate.total, "memory": estimate.memory, "disk": estimate.disk},
        "actual": {"seconds": seconds, "memory": cost.peak_resident, "disk": stored},
        "stages": {stage: [value, record.seconds.get(stage, 0.0)] for stage, value in estimate.seconds.items()},
        "probe": taken,
    }


def measure(repetitions: int) -> list[Row]:
    """Measures each command once. Its limit is the estimate, so ours/limit is actual over estimated seconds."""
    rows = []
    with photos() if "DDBENCH_DATA" in os.environ else nullcontext() as folder:
        for number, (method, dataset, ipc, protocol, _) in enumerate(COMMANDS):
            if dataset == PHOTOS and folder is None:
                continue
            name = f"imagefolder:{folder}" if dataset == PHOTOS else dataset
            command = [sys.executable, __file__, "--part", json.dumps([number, name])]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            values = json.loads(done.stdout.splitlines()[-1])
            estimate, actual = values["estimate"], values["actual"]
            stages = ", ".join(f"{stage} {each[0]:.1f}/{each[1]:.1f}" for stage, each in values["stages"].items())
            notes = [f"{key} {estimate[key] / 1e6:.0f}/{actual[key] / 1e6:.0f} MB" for key in ("memory", "disk")]
            about = f"estimated/actual: {stages} s, {', '.join(notes)}; probe {values['probe']:.1f} s"
            case = f"{method}, {dataset}, IPC {ipc}, {protocol}"
            rows.append(Row("estimates", case, actual["seconds"], limit=estimate["seconds"], agreement=about))
            print(rows[-1].case, f"{rows[-1].over_limit:.2f}", about, file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(compare(*json.loads(arguments.part))))
    else:
        write("estimates", measure(1))
