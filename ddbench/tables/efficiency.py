"""The table `efficiency` (Table 3): time and memory of one iteration. Each method runs in a separate process.

`python -m ddbench.tables.efficiency` is that process. It reads a request from stdin and prints numbers.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from ddbench.api.table import Cell, TableSpec
from ddbench.config.datasets import refers_to
from ddbench.core import clock, interruption
from ddbench.core.errors import DDBenchError, exception_line
from ddbench.tables.context import TableContext

if TYPE_CHECKING:
    import pandas as pd

    from ddbench.pipeline.estimate import Estimate
    from ddbench.pipeline.pipeline import Pipeline
    from ddbench.pipeline.request import Request
    from ddbench.tables.rows import Row
    from ddbench.tables.runs import ResolvedCell

WARMUP = 5
"""Iterations before the measured ones."""
MEASURED = 100
"""Consecutive measured iterations (Table 3)."""
TOTAL = 2000
"""Iterations of the total time (Table 3)."""
COST_COLUMNS = (
    *("seconds_per_iteration", "seconds_per_iteration_deviation", "seconds_per_iteration_n"),
    *("peak_memory_gb", "total_seconds", "total_seconds_note", "device_name", "threads"),
)

Numbers = dict[str, Any]
"""Values of COST_COLUMNS. Empty for a method without iterations."""


def measure_costs(spec: TableSpec, cells: list[Cell], context: TableContext) -> pd.DataFrame:
    """Returns one row per method: seconds per iteration over 100 iterations, peak memory, seconds of 2,000 iterations.

    The numbers are measured on one unit, which is the whole set for methods that optimise all images together. The
    teacher and its statistics are computed before and are not included; barycenters are included in the total. Methods
    that train or build networks use the teacher's architecture. On a CPU the run ends after the measured iterations. In
    this case, and for a method with fewer than 2,000 iterations, the total is extrapolated. Peak memory is the memory
    of the process on a CPU, and the memory of torch's tensors on a GPU.

    The numbers are stored in `results_dir/efficiency`. They apply to one device, number of threads and precision.

    Args:
        spec: The table.
        cells: Its cells.
        context: The objects that are needed to fill the table.

    Raises:
        DDBenchError: If no method makes images, if all cells are impossible for the same reason, or if the missing
            teachers, statistics and iterations take more than an hour and `context.yes` is not set.
    """
    import pandas as pd

    from ddbench.tables.rows import FRAME_COLUMNS, frame_row

    cells = [cell for cell in cells if cell.ipc is not None]
    if not cells:
        raise DDBenchError(f"table '{spec.name}' needs a method that makes images")
    if context.workspace is None:
        rows = [row for row in _stored_rows(context) if _is_requested(row, context.request)]
        stored = [(row["row"], row["ipc"], row["dataset"]) for row in rows]
        for cell in cells:
            names = [name for label, ipc, name in stored if (label, ipc) == (cell.row, cell.ipc)]
            if not any(refers_to(cell.dataset, name) for name in names):
                rows.append(frame_row(spec, cell, context.request))
        rows.sort(key=lambda row: row["row"])
    else:
        from ddbench.pipeline.estimate import Estimate
        from ddbench.tables.runs import check_possible

        resolved = [_resolve(cell, context) for cell in cells]
        check_possible(resolved)
        measurements = [_Measurement(each, context) if each.pipelines else None for each in resolved]
        estimate = Estimate()
        for measurement in measurements:
            if measurement and measurement.stored is None:
                _add_to(estimate, measurement.pipeline)
        context.check_duration(estimate.total, detail=estimate.detail)
        rows = [_cost_row(spec, *each, context) for each in zip(resolved, measurements, strict=True)]
    return pd.DataFrame(rows, columns=list(dict.fromkeys([*FRAME_COLUMNS, *COST_COLUMNS]))).astype({"ipc": "Int64"})


def _resolve(cell: Cell, context: TableContext) -> ResolvedCell:
    """Returns the cell with its pipeline. Methods that train or build networks use the teacher's architecture."""
    from ddbench.pipeline.composition import load_recipes
    from ddbench.tables.cells import cell_experiments
    from ddbench.tables.runs import ResolvedCell, resolve_cells

    assert context.workspace is not None
    try:
        known = load_recipes(context.request.recipes, context.registry)
        experiment = cell_experiments(cell, context.request, context.registry, known)[0]
    except DDBenchError as error:
        return ResolvedCell(cell, [], exception_line(error))
    networks = experiment.method.networks()
    settings = {f"method.{name}": experiment.teacher.arch for name, value in experiment.method if value in networks}
    cells = [replace(cell, settings=settings)]
    (resolved,) = resolve_cells(cells, context.request, context.workspace, context.results_dir)
    return resolved


def _add_to(estimate: Estimate, pipeline: Pipeline) -> None:
    """Adds the teacher, the statistics and the iterations of a measurement to an estimate."""
    if pipeline.method.needs_teacher:
        estimate.add(pipeline, ("data", "teacher", "statistics"))
    steps = getattr(pipeline.method, "steps", None)
    share = _num_iterations(pipeline) / (steps if isinstance(steps, int) and steps > 0 else TOTAL)
    estimate.add_part(pipeline, "distill", 0, min(1.0, share))


def _num_iterations(pipeline: Pipeline) -> int:
    """The number of iterations after which a measurement ends."""
    return TOTAL if pipeline.device.type == "cuda" else WARMUP + MEASURED


class _Measurement:
    """The measurement of one method on this device, and its file.

    Attributes:
        pipeline: The pipeline of the method.
        device: The device, as `ddbench.nn.device.describe` returns it.
        stored: The stored numbers; None if there are none.
    """

    def __init__(self, resolved: ResolvedCell, context: TableContext) -> None:
        from ddbench.core.canonical import key_of
        from ddbench.nn import device
        from ddbench.results import records

        self.pipeline = pipeline = resolved.pipelines[0]
        with device.use_threads(pipeline.threads):
            self.device = device.describe(pipeline.device)
        iterations = [WARMUP, MEASURED, TOTAL]
        self._key = key_of({"unit": pipeline.unit_keys[0], "device": self.device, "iterations": iterations})
        name = records.run_name(resolved.cell.method, pipeline.dataset.name, resolved.cell.ipc, self._key)
        self._path = context.results_dir / "efficiency" / f"{name}.json"
        content = _read(self._path, context)
        self.stored: Numbers | None = None
        if content is not None and content["key"] == self._key:
            self.stored = dict(content["numbers"])

    def store(self, numbers: Numbers, row: Row) -> None:
        """Writes new numbers."""
        from ddbench.core.files import atomic_write
        from ddbench.results import provenance, verified_json

        version = self.pipeline.method.version
        about = {"key": self._key, "method_version": version, **provenance.provenance()}
        text = verified_json.dump({**about, "line": _with_state(row, numbers), "numbers": numbers})
        with atomic_write(self._path) as partial:
            partial.write_text(text, encoding="utf-8")


def _cost_row(spec: TableSpec, resolved: ResolvedCell, measurement: _Measurement | None, context: TableContext) -> Row:
    from ddbench.tables.cells import cell_name
    from ddbench.tables.rows import frame_row

    cell = resolved.cell
    if measurement is None:
        return frame_row(spec, cell, context.request, state="failed", reason=resolved.reason)
    pipeline = measurement.pipeline
    row = frame_row(spec, cell, context.request, pipeline.experiment, classes=pipeline.info.num_classes)
    row["device"] = f"{measurement.device['name']}, {measurement.device['threads']} threads, {pipeline.precision}"
    numbers = measurement.stored
    if numbers is None:
        try:
            numbers = _measure(pipeline, cell, row, context)
            measurement.store(numbers, row)
        except Exception as error:  # after any exception, the other methods are still measured
            reason = context.report_failure(f"{spec.name}: {cell_name(cell)}", error)
            return {**row, "state": "failed", "reason": reason}
    return {**_with_state(row, numbers), **numbers}


def _with_state(row: Row, numbers: Numbers) -> Row:
    return {**row, "state": "measured" if numbers else "no iterations"}


def _measure(pipeline: Pipeline, cell: Cell, row: Row, context: TableContext) -> Numbers:
    """Computes the teacher and the statistics, then measures the method in a separate process."""
    from ddbench.pipeline.run import report_cell
    from ddbench.tables.cells import cell_name

    if pipeline.method.needs_teacher:
        for label in range(pipeline.info.num_classes):
            pipeline.statistics(label)
    report_cell(pipeline, f"{row['table']}: {cell_name(cell)}: measuring in a separate process")
    return _measure_in_process(cell, context)


def _stored_rows(context: TableContext) -> list[Row]:
    """Returns the rows of all stored numbers of the installed versions of the methods."""
    stored = [_read(path, context) for path in sorted((context.results_dir / "efficiency").glob("*.json"))]
    versions = {method.name: method.version for method in context.registry.distillers()}
    return [
        {**content["line"], **content["numbers"]}
        for content in stored
        if content is not None and versions.get(content["line"]["method"]) == content["method_version"]
    ]


def _is_requested(row: Row, request: Request) -> bool:
    requested = {"method": request.methods, "ipc": request.ipcs}
    if request.datasets and not any(refers_to(dataset, row["dataset"]) for dataset in request.datasets):
        return False
    return all(row[name] in values for name, values in requested.items() if values)


def _read(path: Path, context: TableContext) -> dict[str, Any] | None:
    """Returns the content of a file of numbers. None if the file is missing or damaged."""
    from ddbench.results import verified_json

    if not path.is_file():
        return None
    try:
        content = verified_json.load(path.read_text(encoding="utf-8"))
        if content.keys() >= {"key", "method_version", "line", "numbers"}:
            return content
    except (OSError, ValueError, TypeError):
        pass
    context.warn(f"{path} holds no measurement of an iteration")
    return None


def _measure_in_process(cell: Cell, context: TableContext) -> Numbers:
    assert context.workspace is not None
    folders = {"cache": str(context.workspace.cache.root), "data": str(context.workspace.data_dir or "")}
    folders |= {"results": str(context.results_dir)}
    cell = replace(cell, dataset=context.workspace.dataset_reference(cell.dataset))
    request = json.dumps({"request": asdict(context.request), "cell": asdict(cell), **folders})
    command = [sys.executable, "-m", "ddbench.tables.efficiency"]
    # stderr is inherited, so the progress of the process is shown.
    finished = subprocess.run(command, input=request, stdout=subprocess.PIPE, text=True)
    interruption.raise_if_requested()  # Ctrl-C interrupts both processes
    answer = (finished.stdout.strip().splitlines() or [""])[-1]
    if finished.returncode or not answer:
        raise DDBenchError(f"its process ended with status {finished.returncode}")
    numbers: Numbers = json.loads(answer)
    if "reason" in numbers:
        raise DDBenchError(numbers["reason"])
    return numbers


class _EnoughIterations(interruption.RunInterrupt):
    """Ends the loop of a method."""


def measure(pipeline: Pipeline) -> Numbers:
    """Runs the first unit of a method and times its iterations.

    Args:
        pipeline: The pipeline of the method. Its teacher and statistics must be in the cache.

    Returns:
        The values of COST_COLUMNS; empty if the method has no iterations.

    Raises:
        DDBenchError: If the method has too few iterations.
    """
    import torch

    from ddbench.nn import device
    from ddbench.pipeline.stages.distill import Distill
    from ddbench.storage.checkpoint import Checkpoint

    def tick() -> None:
        if pipeline.device.type == "cuda":
            torch.cuda.synchronize(pipeline.device)
        times.append(clock.now())
        if len(times) > last:
            raise _EnoughIterations

    last = _num_iterations(pipeline)
    unit, distill = pipeline.units[0], pipeline.graph["distill"]
    assert isinstance(distill, Distill)
    device.prepare(pipeline.device)  # configure the same kernels as a run
    with (
        tempfile.TemporaryDirectory() as folder,
        device.use_threads(pipeline.threads),
        device.measured(pipeline.device) as cost,
    ):
        task = distill.task(pipeline, 0, Checkpoint(Path(folder) / "checkpoint.safetensors"))
        task = replace(task, tick=tick, cached=lambda name, depends_on, build: build(), checkpoint_every=10**9)
        times = [clock.now()]
        with contextlib.suppress(_EnoughIterations):
            pipeline.method.distill(task, unit)
    iterations = len(times) - 1
    if not iterations:
        return {}
    durations = [after - before for before, after in itertools.pairwise(times[1:])][WARMUP - 1 :]
    if len(durations) < 2:
        raise DDBenchError(
            f"{iterations} iterations are too few: the first {WARMUP} are not measured; "
            "give a --recipe or --set with more"
        )
    durations = durations[:MEASURED]
    complete = iterations >= TOTAL
    return {
        "seconds_per_iteration": fmean(durations),
        "seconds_per_iteration_deviation": stdev(durations),
        "seconds_per_iteration_n": len(durations),
        "peak_memory_gb": (cost.peak_device or cost.peak_resident) / 1e9,
        "total_seconds": times[TOTAL] - times[0] if complete else times[1] - times[0] + (TOTAL - 1) * fmean(durations),
        "total_seconds_note": "" if complete else "extrapolated",
        "device_name": device.describe(pipeline.device)["name"],
        "threads": pipeline.threads,
    }


def main() -> None:
    """Runs the process of one method: reads a request from stdin and prints one line of numbers or the reason."""
    from ddbench.pipeline.request import Request
    from ddbench.pipeline.workspace import Workspace
    from ddbench.registry.registry import PluginRegistry
    from ddbench.results.failures import write_traceback
    from ddbench.storage.cache import Cache
    from ddbench.tables.runs import resolve_cells

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent process reports the interruption
    content = json.load(sys.stdin)
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content["request"].items()
    }
    registry = PluginRegistry()
    workspace = Workspace(registry, Cache(Path(content["cache"])), Path(content["data"]) if content["data"] else None)
    cell, results_dir = Cell(**content["cell"]), Path(content["results"])
    (resolved,) = resolve_cells([cell], Request(**fields), workspace, results_dir)
    try:
        numbers = {"reason": resolved.reason} if resolved.reason else measure(resolved.pipelines[0])
    except DDBenchError as error:
        numbers = {"reason": str(error)}
    except Exception as error:  # report any exception to the parent process
        method = registry.describe("method", cell.method)
        numbers = {"reason": f"{method}: {exception_line(error)} ({write_traceback(cell.method, error, results_dir)})"}
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
