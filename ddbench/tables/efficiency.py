"""`efficiency` (Table 3): what one iteration of a method costs, each method in a process of its own.

Run as a module, it is that process: a request on stdin, numbers on stdout.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from ddbench.api.table import Cell, TableSpec
from ddbench.core import interruption
from ddbench.core.errors import DDBenchError
from ddbench.tables.context import TableContext

if TYPE_CHECKING:
    import pandas as pd

    from ddbench.pipeline.pipeline import Pipeline
    from ddbench.pipeline.request import Request

WARM = 5
"""Iterations before the measured ones."""
MEASURED = 100
"""Consecutive iterations (Table 3)."""
TOTAL = 2000
"""Iterations of the total (Table 3)."""
COST_COLUMNS = (
    *("seconds_per_iteration", "seconds_per_iteration_deviation", "seconds_per_iteration_n"),
    *("peak_memory_gb", "total_seconds", "total_seconds_note", "device_name", "threads"),
)


def measure_costs(spec: TableSpec, cells: list[Cell], desk: TableContext) -> pd.DataFrame:
    """A line a method: seconds an iteration over 100 consecutive ones, peak memory, seconds of 2,000 iterations.

    All of one unit: of the whole set where its method makes that in one. The teacher and its statistics are made
    before, and are in no number; barycenters are in the total. The methods use the teacher's network throughout. On
    a CPU the run ends with the measured iterations and the total is extrapolated, as it is where a method has fewer
    than 2,000. Peak memory is that of the process on a CPU, of torch's tensors on a GPU. The numbers are kept in
    `results_dir/efficiency`, and hold for the device, threads and precision that they were measured with.
    """
    import pandas as pd

    from ddbench.tables.lines import COLUMNS as LINE
    from ddbench.tables.lines import frame_row

    cells = [cell for cell in cells if cell.ipc is not None]
    if not cells:
        raise DDBenchError(f"table '{spec.name}' is about methods that make images")
    if desk.workspace is None:
        lines = [line for line in _stored(desk) if _is_asked_for(line, desk.request)]
        there = {(line["row"], line["dataset"], line["ipc"]) for line in lines}
        missing = [cell for cell in cells if (cell.row, cell.dataset, cell.ipc) not in there]
        lines += [frame_row(spec, cell, desk.request) for cell in missing]
        lines.sort(key=lambda line: line["row"])
    else:
        lines = [_line(spec, cell, desk) for cell in cells]
    return pd.DataFrame(lines, columns=list(dict.fromkeys([*LINE, *COST_COLUMNS]))).astype({"ipc": "Int64"})


def _line(spec: TableSpec, cell: Cell, desk: TableContext) -> dict[str, Any]:
    from ddbench.nn import device
    from ddbench.pipeline.composition import load_recipes
    from ddbench.tables.cells import cell_experiments
    from ddbench.tables.filling import cell_name, one_line, resolve_cells
    from ddbench.tables.lines import frame_row

    assert desk.workspace is not None
    distiller = desk.registry.distiller(cell.method)
    try:
        known = load_recipes(desk.request.recipes, desk.registry)
        teacher = cell_experiments(cell, desk.request, desk.registry, known)[0].teacher.arch
    except DDBenchError as error:
        return frame_row(spec, cell, desk.request, state="failed", reason=one_line(error))
    cell = replace(cell, settings={"method.network": teacher} if "network" in distiller.model_fields else {})
    (place,) = resolve_cells([cell], desk.request, desk.workspace)
    if place.reason:
        return frame_row(spec, cell, desk.request, state="failed", reason=place.reason)
    pipeline = place.pipelines[0]
    on = device.describe(pipeline.device)
    line = frame_row(spec, cell, desk.request, pipeline.experiment, classes=pipeline.dataset.info.num_classes)
    line["device"] = f"{on['name']}, {on['threads']} threads, {pipeline.precision}"
    try:
        numbers = _measured(pipeline, cell, line, on, desk)
    except Exception as error:  # whatever a method raises, the other methods go on
        desk.warn(f"{spec.name}: {cell_name(cell)}: failed: {one_line(error)}")
        return {**line, "state": "failed", "reason": one_line(error)}
    return line if numbers is None else {**_done(line, numbers), **numbers}


def _done(line: dict[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
    return {**line, "state": "measured" if numbers else "no iterations"}


def _measured(
    pipeline: Pipeline, cell: Cell, line: dict[str, Any], on: dict[str, Any], desk: TableContext
) -> dict[str, Any] | None:
    """The numbers of one method, measured where there are none of this device yet; None where nothing may be run.

    Empty where the method has no iterations.
    """
    from ddbench.core.files import atomic_write
    from ddbench.results import provenance, records
    from ddbench.storage.artifacts import key_of
    from ddbench.tables.filling import cell_name

    key = key_of({"unit": pipeline.unit_keys[0], "device": on, "iterations": [WARM, MEASURED, TOTAL]})
    path = desk.results_dir / "efficiency" / f"{records.run_name(cell.method, cell.dataset, cell.ipc, key)}.json"
    found = _read(path, desk)
    if found is not None and found["key"] == key:
        return dict(found["numbers"])
    if desk.only_cached:
        return None
    if pipeline.method.needs_teacher:
        for label in range(pipeline.dataset.info.num_classes):
            pipeline.statistics(label)
    desk.warn(f"{line['table']}: {cell_name(cell)}: measured in a process of its own")
    numbers = _in_a_process(cell, desk)
    with atomic_write(path) as partial:
        about = {"key": key, "method_version": pipeline.method.version, **provenance.provenance()}
        text = records.dump_with_digest({**about, "line": _done(line, numbers), "numbers": numbers})
        partial.write_text(text, encoding="utf-8")
    return numbers


def _stored(desk: TableContext) -> list[dict[str, Any]]:
    """The lines of all that was measured, by the installed versions of the methods."""
    found = [_read(path, desk) for path in sorted((desk.results_dir / "efficiency").glob("*.json"))]
    versions = {method.name: method.version for method in desk.registry.distillers()}
    return [
        {**each["line"], **each["numbers"]}
        for each in found
        if each is not None and versions.get(each["line"]["method"]) == each["method_version"]
    ]


def _is_asked_for(line: dict[str, Any], request: Request) -> bool:
    asked = {"dataset": request.datasets, "method": request.methods, "ipc": request.ipcs}
    return all(line[name] in values for name, values in asked.items() if values)


def _read(path: Path, desk: TableContext) -> dict[str, Any] | None:
    """What was written for one method, or None."""
    from ddbench.results import records

    if not path.is_file():
        return None
    try:
        found = records.load_verified(path.read_text(encoding="utf-8"))
        if found.keys() >= {"key", "method_version", "line", "numbers"}:
            return found
    except (OSError, ValueError, TypeError):
        pass
    desk.warn(f"{path} holds no measurement of an iteration")
    return None


def _in_a_process(cell: Cell, desk: TableContext) -> dict[str, Any]:
    assert desk.workspace is not None
    places = {"cache": str(desk.workspace.cache.root), "data": str(desk.workspace.data_dir or "")}
    asked = json.dumps({"request": asdict(desk.request), "cell": asdict(cell), **places})
    command = [sys.executable, "-m", "ddbench.tables.efficiency"]
    # Its progress goes where ours does.
    done = subprocess.run(command, input=asked, stdout=subprocess.PIPE, text=True)
    interruption.raise_if_requested()  # Ctrl-C reaches both
    answer = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode or not answer:
        raise DDBenchError(f"its process ended with status {done.returncode}")
    found: dict[str, Any] = json.loads(answer)
    if "reason" in found:
        raise DDBenchError(found["reason"])
    return found


class _EnoughIterations(interruption.RunInterrupt):
    """Ends a method's loop where it stands."""


def measure(pipeline: Pipeline) -> dict[str, Any]:
    """Runs the first unit and times its iterations (see `one_process_each`); empty where it has none.

    Raises DDBenchError where it has too few.
    """
    import torch

    from ddbench.nn import device
    from ddbench.pipeline.stages.distill import Distill
    from ddbench.storage.checkpoint import Checkpoint

    def tick() -> None:
        if pipeline.device.type == "cuda":
            torch.cuda.synchronize(pipeline.device)
        times.append(time.perf_counter())
        if len(times) > last:
            raise _EnoughIterations

    last = TOTAL if pipeline.device.type == "cuda" else WARM + MEASURED
    unit, distill = pipeline.units[0], pipeline.graph["distill"]
    assert isinstance(distill, Distill)
    device.prepare(pipeline.device)  # the kernels that a run has
    with tempfile.TemporaryDirectory() as folder, device.measured(pipeline.device) as cost:
        task = distill.task(pipeline, 0, Checkpoint(Path(folder) / "checkpoint.safetensors"))
        task = replace(task, tick=tick, cached=lambda name, depends_on, build: build(), checkpoint_every=10**9)
        times = [time.perf_counter()]
        with contextlib.suppress(_EnoughIterations):
            pipeline.method.distill(task, unit)
    each = [after - before for before, after in itertools.pairwise(times[1:])][WARM - 1 :]
    if len(times) == 1:
        return {}
    if len(each) < 2:
        raise DDBenchError(f"{len(times) - 1} iterations, of which the first {WARM} do not count, are too few")
    whole = len(times) - 1 >= TOTAL
    start = times[1] - times[0]
    each = each[:MEASURED]
    return {
        "seconds_per_iteration": fmean(each),
        "seconds_per_iteration_deviation": stdev(each),
        "seconds_per_iteration_n": len(each),
        "peak_memory_gb": (cost.peak_device or cost.peak_resident) / 1e9,
        "total_seconds": times[TOTAL] - times[0] if whole else start + (TOTAL - 1) * fmean(each),
        "total_seconds_note": "" if whole else "extrapolated",
        "device_name": device.describe(pipeline.device)["name"],
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """The process: one request in, one line of numbers out."""
    from ddbench.pipeline.request import Request
    from ddbench.pipeline.workspace import Workspace
    from ddbench.registry.registry import PluginRegistry
    from ddbench.storage.cache import Cache
    from ddbench.tables.filling import one_line, resolve_cells

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # who started it says that it was stopped
    asked = json.load(sys.stdin)
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in asked["request"].items()
    }
    registry = PluginRegistry()
    workspace = Workspace(registry, Cache(Path(asked["cache"])), Path(asked["data"]) if asked["data"] else None)
    (place,) = resolve_cells([Cell(**asked["cell"])], Request(**fields), workspace)
    try:
        found = {"reason": place.reason} if place.reason else measure(place.pipelines[0])
    except Exception as error:  # whatever a method raises, the process that asked must be told
        found = {"reason": one_line(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
