"""`ddbench table`."""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ddbench.cli import options
from ddbench.core import interruption
from ddbench.core.errors import DDBenchError
from ddbench.core.text import counted
from ddbench.execution import choose, launch

if TYPE_CHECKING:
    from pandas import DataFrame

    from ddbench.api.table import TableSpec
    from ddbench.registry.registry import PluginRegistry
    from ddbench.results.records import Record

FORMATS = ("text", "markdown", "latex", "csv", "html", "json")


def _require_writable(output: Path) -> None:
    """Creates a temporary file next to `output`, so that a missing permission is reported before hours of work."""
    from ddbench.core.files import translate_os_errors

    folder = next(folder for folder in output.absolute().parents if folder.exists())
    with translate_os_errors(output), tempfile.TemporaryFile(dir=folder):
        pass


@options.command("table")
@click.argument("name")
@options.datasets("Datasets (default: those of the records and of the paper; with --run, of the data folder).")
@options.ipcs("Images per class (default: the table's).")
@options.methods
@options.names(
    "--evaluator",
    "evaluators",
    help="Protocols of the cells for which the table sets none, a column each (default: own-protocol, the default of "
    "each method).",
)
@options.experiment
@options.executor
@options.time_limit
@options.data
@options.results
@options.cache
@click.option(
    "--run/--only-cached",
    "runs",
    default=False,
    help="Run the experiments that have no record (default: show the records only).",
)
@options.strict
@click.option("--yes", is_flag=True, help="With --run: also start work that is estimated at more than an hour.")
@click.option("--dry-run", is_flag=True, help="Print the state of each cell and the estimated time. Compute nothing.")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="Format of the table."
)
@click.option(
    "--output", type=options.LocalPath(path_type=Path, dir_okay=False), help="File to write (default: stdout)."
)
@click.pass_obj
def table_command(
    registry: PluginRegistry,
    /,
    name: str,
    data_dir: Path | None,
    results_dir: Path,
    cache_dir: Path,
    time_limit: float | None,
    runs: bool,
    yes: bool,
    strict: bool,
    dry_run: bool,
    form: str,
    output: Path | None,
    executor: str,
    ray_address: str | None,
    assignments: tuple[str, ...],
    **request_fields: Any,
) -> None:
    """Prints a table of records and published numbers.

    NAME is one of the tables of `ddbench list tables`. The command opens no dataset and states how many cells are
    missing; --dry-run estimates how long they take. With --run, it runs the experiments that have no record. Ctrl-C
    keeps all finished experiments. The exit code is 1 if an experiment failed. Without --run, --seeds and --repeats
    select the records of the first students and sets; the default is all records.
    """
    spec = registry.table(name)
    for option, given in {"--strict": strict, "--yes": yes}.items():
        if given and not (runs or dry_run):
            raise DDBenchError(f"{option}: give --run or --dry-run too")
    if dry_run and output is not None:
        raise DDBenchError("--output: --dry-run prints the plan, and makes no table")

    from ddbench.core.files import atomic_write
    from ddbench.pipeline.request import Request
    from ddbench.results import records
    from ddbench.tables import frame as frames
    from ddbench.tables import layout
    from ddbench.tables.cells import with_protocol_columns

    executor_used, assignments = choose.choose(executor, ray_address, assignments, registry)
    request = Request(**request_fields, assignments=assignments)
    spec = with_protocol_columns(spec, request)
    workspace = None
    if runs or dry_run:  # reading opens no dataset
        request = frames.with_datasets(request, registry, data_dir)
    if (runs or dry_run) and request.datasets:
        from ddbench.pipeline.workspace import Workspace

        cache = options.open_cache(cache_dir)
        workspace = Workspace(registry, cache, data_dir, download=runs and not dry_run, executor=executor_used)
    if dry_run:
        from ddbench.tables import plan

        click.echo(plan.plan(spec, request, registry, workspace, results_dir, strict))
        return
    if runs and workspace is None:
        raise DDBenchError("--run needs data: there is no --dataset, and no dataset in the data folder (--data-dir)")
    if output is not None:
        _require_writable(output)
    stored = records.read_all(results_dir / "records", options.print_error)

    def work() -> DataFrame:
        with (
            options.kept_tracebacks(registry, results_dir),
            interruption.handle_signals(time_limit and time_limit * 60),
        ):
            shown = stored if runs else _first_students(stored)
            warn = options.print_error
            return frames.build_frame(spec, request, registry, workspace, results_dir, warn, yes, strict, shown)

    frame = launch.run_distributed(work, workspace)
    if frame is None:  # only rank 0 has the table
        return
    with frames.table_errors(spec, registry, results_dir):
        text = layout.format_table(spec, frame, form)
    if output is None:
        options.print_result(text)
    else:
        with atomic_write(output) as partial:
            partial.write_text(text + "\n", encoding="utf-8")
        options.print_result(f"written: {output}")
    if runs:
        sys.exit(1 if (frame["state"] == "failed").any() else 0)
    if line := _missing_line(spec, frame, has_data=bool(data_dir or request.datasets)):
        options.print_error(line)


def _first_students(stored: list[Record]) -> list[Record]:
    """With `--seeds` or `--repeats`, returns only the records of the first students or sets."""
    context = click.get_current_context()
    limits = {
        name: context.params[name]
        for name in ("seeds", "repeats")
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    seeds, repeats = limits.get("seeds", math.inf), limits.get("repeats", math.inf)
    return [record for record in stored if record.student_seed < seeds and record.repeat < repeats]


def _missing_line(spec: TableSpec, frame: DataFrame, has_data: bool) -> str:
    """Returns one line that counts the cells without a number; empty if there are none.

    The line does not state how long they take: an estimate opens the datasets and measures the speed of the device.
    """
    missing = int((frame["state"] == "never run").sum())
    if not missing:
        return ""
    how = "--run needs data: --dataset NAME, --data-dir FOLDER"
    if has_data:
        how = "--run computes them" + (", --dry-run estimates the time" if spec.fill is None else "")
    return f"{counted(missing, 'cell')} without a number; {how}"
