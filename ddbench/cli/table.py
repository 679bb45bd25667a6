"""`ddbench table`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddbench.cli import options
from ddbench.core import interruption
from ddbench.execution import choose, launch

if TYPE_CHECKING:
    from pandas import DataFrame

    from ddbench.registry.registry import PluginRegistry

FORMATS = ("text", "markdown", "latex", "csv", "html", "json")


def _require_writable(output: Path) -> None:
    """Creates a temporary file next to `output`, so that a missing permission is reported before hours of work."""
    from ddbench.core.files import translate_os_errors

    folder = next(folder for folder in output.absolute().parents if folder.exists())
    with translate_os_errors(output), tempfile.TemporaryFile(dir=folder):
        pass


@click.command("table")
@click.argument("name")
@click.option(
    "--dataset", "datasets", multiple=True, help="Dataset. Can be repeated (default: all in the data folder)."
)
@click.option(
    "--ipc", "ipcs", type=int, multiple=True, help="Images per class. Can be repeated (default: the table's)."
)
@options.methods
@options.experiment
@options.executor
@options.time_limit
@options.data
@options.results
@options.cache
@click.option("--only-cached", is_flag=True, help="Compute nothing. Mark missing numbers as never run.")
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
    only_cached: bool,
    dry_run: bool,
    form: str,
    output: Path | None,
    executor: str,
    ray_address: str | None,
    assignments: tuple[str, ...],
    **request_fields: Any,
) -> None:
    """Fills a table and prints it with the published numbers.

    NAME is one of the tables of `ddbench list tables`. The command runs experiments that have no record, and reuses the
    others. Without --dataset and without a known dataset in the data folder, it uses records and published numbers
    only. Ctrl-C keeps all finished experiments. The exit code is 1 if an experiment failed.
    """
    spec = registry.table(name)

    from ddbench.core.files import atomic_write
    from ddbench.pipeline.request import Request
    from ddbench.tables import frame as frames
    from ddbench.tables import layout

    executor_used, assignments = choose.choose(executor, ray_address, assignments, registry)
    request = Request(**request_fields, assignments=assignments)
    request, has_data = frames.choose_datasets(request, registry, data_dir, only_cached)
    workspace = None
    if has_data:
        from ddbench.pipeline.workspace import Workspace

        cache = options.open_cache(cache_dir, builds=not only_cached)
        workspace = Workspace(registry, cache, data_dir, download=not (dry_run or only_cached), executor=executor_used)
    if workspace is None and not only_cached:
        options.print_error("no --dataset and no dataset in the data folder: using records and published numbers only")
    if dry_run:
        from ddbench.tables import plan

        click.echo(plan.plan(spec, request, registry, workspace, results_dir))
        return
    if output is not None:
        _require_writable(output)

    def work() -> DataFrame:
        with interruption.handle_signals(time_limit and time_limit * 60):
            return frames.build_frame(spec, request, registry, workspace, results_dir, only_cached, options.print_error)

    frame = launch.run_distributed(work, workspace)
    if frame is None:  # only rank 0 has the table
        return
    text = layout.format_table(spec, frame, form)
    if output is None:
        options.print_result(text)
    else:
        with atomic_write(output) as partial:
            partial.write_text(text + "\n", encoding="utf-8")
        options.print_result(f"written: {output}")
    if (frame["state"] == "failed").any():
        sys.exit(1)
