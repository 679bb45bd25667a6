"""`efficiency` (Table 3): what one iteration of a method costs, each method in a process of its own.

Run as a module, it is that process: a request on stdin, numbers on stdout.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from ddbench.errors import DDBenchError
from ddbench.tables import Cell, Desk, TableSpec

if TYPE_CHECKING:
    import pandas as pd

    from ddbench.stages import Pipeline

WARM = 5
"""Iterations before the measured ones."""
MEASURED = 100
"""Consecutive iterations (Table 3)."""
TOTAL = 2000
"""Iterations of the total (Table 3)."""
COLUMNS = (
    *("seconds_per_iteration", "seconds_per_iteration_deviation", "seconds_per_iteration_n"),
    *("peak_memory_gb", "total_seconds", "total_seconds_note", "device_name", "threads"),
)


def one_process_each(spec: TableSpec, cells: list[Cell], desk: Desk) -> pd.DataFrame:
    """A line a method: seconds an iteration over 100 consecutive ones, peak memory, seconds of 2,000 iterations.

    The teacher and its statistics are made before, and are in no number; barycenters are in the total. The methods
    use the teacher's network throughout. On a CPU the run ends with the measured iterations and the total is
    extrapolated, as it is where a method has fewer than 2,000. Peak memory is that of the process on a CPU, of
    torch's tensors on a GPU.
    """
    import pandas as pd

    from ddbench.tables.filling import places
    from ddbench.tables.lines import COLUMNS as LINE
    from ddbench.tables.lines import line_of

    lines: list[dict[str, Any]] = []
    for cell in cells:
        distiller = desk.registry.distiller(cell.method)
        own = {"method.network": desk.request.arch or "resnet18"} if "network" in distiller.model_fields else {}
        cell = replace(cell, settings=own)
        if desk.workspace is None or not distiller.needs_ipc:
            continue
        (place,) = places([cell], desk.request, desk.workspace)
        if place.reason:
            lines.append(line_of(spec, cell, None, "failed", place.reason))
            continue
        pipeline = place.pipelines[0]
        found, reason = None, ""
        try:
            found = _measured(pipeline, cell, desk)
        except DDBenchError as error:
            reason = str(error)
        state = "failed" if reason else "never run" if found is None else "measured" if found else "no iterations"
        line = line_of(spec, cell, pipeline.experiment, state, reason, classes=pipeline.dataset.info.num_classes)
        lines.append({**line, **(found or {})})
    return pd.DataFrame(lines, columns=list(dict.fromkeys([*LINE, *COLUMNS]))).astype({"ipc": "Int64"})


def _measured(pipeline: Pipeline, cell: Cell, desk: Desk) -> dict[str, Any] | None:
    """The numbers of one method, measured where there are none of this device yet; None where nothing may be run.

    Empty where the method has no iterations.
    """
    from ddbench import device, records
    from ddbench.cache import key_of, whole

    on = device.describe(pipeline.device)
    key = key_of({"unit": pipeline.unit_keys[0], "device": on, "iterations": [WARM, MEASURED, TOTAL]})
    path = desk.results_dir / "efficiency" / f"{records.run_name(cell.method, cell.dataset, cell.ipc, key)}.json"
    if path.is_file():
        numbers: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["numbers"]
        return numbers
    if desk.only_cached:
        return None
    if pipeline.method.needs_teacher:
        for label in range(pipeline.dataset.info.num_classes):
            pipeline.statistics(label)
    numbers = _in_a_process(cell, desk)
    with whole(path) as partial:
        made = records.provenance()
        text = json.dumps({"key": key, "method": cell.method, "numbers": numbers, **made}, indent=1)
        partial.write_text(text + "\n", encoding="utf-8")
    return numbers


def _in_a_process(cell: Cell, desk: Desk) -> dict[str, Any]:
    assert desk.workspace is not None
    places = {"cache": str(desk.workspace.cache.root), "data": str(desk.workspace.data_dir or "")}
    asked = json.dumps({"request": asdict(desk.request), "cell": asdict(cell), **places})
    command = [sys.executable, "-m", "ddbench.tables.efficiency"]
    done = subprocess.run(command, input=asked, capture_output=True, text=True)
    if done.returncode:
        raise DDBenchError((done.stderr.strip().splitlines() or ["its process was killed"])[-1])
    numbers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return numbers


class _EnoughIterations(Exception):
    """Ends a method's loop where it stands."""


def measure(pipeline: Pipeline) -> dict[str, Any]:
    """Runs the first unit and times its iterations (see `one_process_each`); empty where it has none."""
    import torch

    from ddbench import device
    from ddbench.cache import Checkpoint

    def tick() -> None:
        if pipeline.device.type == "cuda":
            torch.cuda.synchronize(pipeline.device)
        times.append(time.perf_counter())
        if len(times) > last:
            raise _EnoughIterations

    last = TOTAL if pipeline.device.type == "cuda" else WARM + MEASURED
    unit = pipeline.units[0]
    with tempfile.TemporaryDirectory() as folder, device.measured(pipeline.device) as cost:
        task = pipeline.distill_task(unit, Checkpoint(Path(folder) / "slot.safetensors"))
        task = replace(task, tick=tick, cached=lambda name, depends_on, build: build(), checkpoint_every=10**9)
        times = [time.perf_counter()]
        with contextlib.suppress(_EnoughIterations):
            pipeline.method.distill(task, unit)
    each = [after - before for before, after in itertools.pairwise(times[1:])][WARM - 1 :]
    if len(each) < 2:
        return {}
    whole = len(times) - 1 >= TOTAL
    start = times[1] - times[0]
    each = each[:MEASURED]
    return {
        "seconds_per_iteration": fmean(each),
        "seconds_per_iteration_deviation": stdev(each),
        "seconds_per_iteration_n": len(each),
        "peak_memory_gb": max(cost.peak_device, 0) / 1e9 or cost.peak_resident / 1e9,
        "total_seconds": times[TOTAL] - times[0] if whole else start + (TOTAL - 1) * fmean(each),
        "total_seconds_note": "" if whole else "extrapolated",
        "device_name": device.describe(pipeline.device)["name"],
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """The process: one request in, one line of numbers out."""
    from ddbench.cache import Cache
    from ddbench.plugins import PluginRegistry
    from ddbench.resolve import Request
    from ddbench.stages import Workspace
    from ddbench.tables.filling import places

    asked = json.load(sys.stdin)
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in asked["request"].items()
    }
    registry = PluginRegistry()
    workspace = Workspace(registry, Cache(Path(asked["cache"])), Path(asked["data"]) if asked["data"] else None)
    (place,) = places([Cell(**asked["cell"])], Request(**fields), workspace)
    if place.reason:
        sys.exit(place.reason)
    try:
        print(json.dumps(measure(place.pipelines[0])))
    except DDBenchError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
