"""Growth of time and memory: the recover loop with images per class, statistics with the number of classes."""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from measuring import Row, device, interleaved, write
from PIL import Image
from recover import Case

from ddbench.api.units import units_of_whole_classes
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache

CLASSES, BATCH = 100, 100
IPCS = (1, 10, 50, 100, 200)
SIZE, STEPS, ARCH = 32, 3, "convnet-bn-d3"
STATISTICS_OF = (10, 100, 1000)
EACH = 5
"""Images per class for the statistics."""
MEGABYTE = 2**20


def case(ipc: int) -> Case:
    """Builds the first unit of CLASSES classes; all other units have its size."""
    return Case(len(units_of_whole_classes(CLASSES, ipc, BATCH)[0].slots), SIZE, device(), ARCH, STEPS)


def recover(ipc: int) -> float:
    """Returns the bytes by which the peak resident memory during the steps of a unit exceeds that before them."""
    unit = case(ipc)
    # Building the unit took memory too: return what is free, and restart the peak (Linux with glibc only).
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak()
    unit.ours()
    return _peak() - before


def statistics(classes: int) -> float:
    """Returns the bytes by which memory grows while the statistics of all classes of a synthetic set are computed.

    Mapped files (the artifact of each class) do not count: the system can drop them at any time.
    """
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split, count in (("train", EACH), ("val", 1)):
            for label in range(classes):
                (folder / split / f"{label:04}").mkdir(parents=True)
                for index in range(count):
                    pixels = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
                    pixels.save(folder / split / f"{label:04}" / f"{index}.png")
        request = Request(
            methods=("wmdd",),
            datasets=(f"imagefolder:{folder}",),
            ipcs=(1,),
            recipes=("smoke",),
            device=device().type,
            precision="fp32",
            arch="convnet-bn-d1",
            image_size=16,
            assignments=("teacher.batch_size=500", "teacher.epochs=1"),
        )
        registry = PluginRegistry()
        (experiment,) = experiments(request, registry)
        pipeline = Pipeline(Workspace(registry, Cache(folder / "cache"), None), experiment)
        pipeline.statistics(0)
        before, most = _held(), 0
        for label in range(classes):
            pipeline.statistics(label)
            most = max(most, _held())
        return most - before


def _held() -> int:
    """Returns the resident bytes that belong to no file."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


def _peak() -> int:
    """Returns the peak resident memory in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _apart(part: str, argument: int) -> str:
    """Runs `part` in a separate process, because a peak is one of the whole process."""
    command = [sys.executable, __file__, "--part", json.dumps([part, argument])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return f"memory +{float(done.stdout.splitlines()[-1]) / MEGABYTE:.0f} MB"


def measure(repetitions: int) -> list[Row]:
    """Measures a step of all units against as many images in units of BATCH (the limit), and the memory of one unit."""
    taken = interleaved({str(ipc): case(ipc).ours for ipc in IPCS}, repetitions, warm=1)
    rows = []
    for ipc in IPCS:
        units = len(units_of_whole_classes(CLASSES, ipc, BATCH))
        seconds, reference = units * taken[str(ipc)] / STEPS, taken[str(BATCH // CLASSES)] / STEPS
        name = f"recover, {CLASSES} classes, IPC {ipc}: {units} units, {ARCH}, {SIZE} px"
        rows.append(
            Row("growth", name, seconds, limit=reference * ipc * CLASSES / BATCH, agreement=_apart("recover", ipc))
        )
    for classes in STATISTICS_OF:
        start = time.perf_counter()
        held = _apart("statistics", classes)
        name = f"statistics, {classes} classes of {EACH} images, with the set and its teacher"
        rows.append(Row("growth", name, time.perf_counter() - start, agreement=held))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        part, argument = json.loads(arguments.part)
        print({"recover": recover, "statistics": statistics}[part](argument))
    else:
        write("growth", measure(arguments.repetitions))
