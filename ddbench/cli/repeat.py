"""`ddbench repeat`: runs again what a record describes, and compares the numbers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddbench.cli import options
from ddbench.core import interruption
from ddbench.core.files import expand_user
from ddbench.execution import launch

if TYPE_CHECKING:
    from ddbench.pipeline.repetition import Files
    from ddbench.registry.registry import PluginRegistry
    from ddbench.results.records import Record


@options.command("repeat")
@click.argument("record")
@click.option(
    "--file",
    "given",
    multiple=True,
    type=options.LocalPath(path_type=Path),
    help="A file that the record names, e.g. the teacher's checkpoint (default: found by its name beside the record, "
    "in the working directory or in the data folder). Can be repeated.",
)
@options.time_limit
@options.data
@options.results
@options.cache
@click.option("--dry-run", is_flag=True, help="Print what differs here and the estimated time. Compute nothing.")
@click.pass_obj
def repeat_command(
    registry: PluginRegistry,
    record: str,
    given: tuple[Path, ...],
    time_limit: float | None,
    data_dir: Path | None,
    results_dir: Path,
    cache_dir: Path,
    dry_run: bool,
) -> None:
    """Runs again what a record describes, and compares the numbers.

    RECORD is the name of a record, a unique prefix of it, or the path of a record, also one of another machine. First,
    everything that cannot be the same here is printed, e.g. device and library versions. Every stage is computed again,
    and the records and the cache stay as they are: the new record is written below repeats/ in the results folder.
    The exit code is 0 if the distilled sets and all accuracies are equal, and 1 if not.
    """
    from ddbench.pipeline import repetition
    from ddbench.results import records

    path = record_path(record, results_dir)
    folders = (path.parent, Path(), *([data_dir] if data_dir else []))
    files, places = repetition.Files(given, folders), (data_dir, results_dir, cache_dir)
    if repeat_record(registry, records.read(path), files, time_limit, *places, dry_run) is False:
        sys.exit(1)


def record_path(name: str, results_dir: Path) -> Path:
    """Returns the file of a record: a path, or the name of a record in the results folder or a prefix of it."""
    from ddbench.results import records

    path = expand_user(Path(name))
    return path if path.is_file() or os.sep in name else records.find(results_dir / "records", name)


def repeat_record(
    registry: PluginRegistry,
    stored: Record,
    files: Files,
    time_limit: float | None,
    data_dir: Path | None,
    results_dir: Path,
    cache_dir: Path,
    dry_run: bool = False,
) -> bool | None:
    """Runs again what a record describes, and prints what differs.

    Args:
        registry: The installed plugins.
        stored: The record.
        files: Finds the files that the record names.
        time_limit: Minutes after which the run stops; None: no limit.
        data_dir: Folder of the datasets.
        results_dir: The results folder.
        cache_dir: Folder or URL of the cache.
        dry_run: Whether only the plan is printed.

    Returns:
        Whether the numbers are equal; None in a process that only helps another one.
    """
    from ddbench.pipeline import repetition
    from ddbench.pipeline import run as running
    from ddbench.pipeline.pipeline import Pipeline
    from ddbench.pipeline.workspace import Workspace

    experiment = repetition.recorded_experiment(stored, registry, files)
    cache = repetition.own_cache(options.open_cache(cache_dir), stored, options.print_error)
    workspace = Workspace(registry, cache, data_dir, download=not dry_run)

    repetition.add_given_set(stored, experiment, workspace, files)
    files.check_used()

    def work() -> bool:
        pipeline = Pipeline(workspace, experiment)
        repetition.check_teacher(pipeline, stored)
        options.print_result(repetition.plan_text(stored, pipeline))
        if dry_run:
            running.announce_duration([pipeline])
            return True
        repeats, silent = results_dir / "repeats", lambda text: None
        with interruption.handle_signals(time_limit and time_limit * 60):
            (again,) = running.run([experiment], workspace, repeats, silent, options.print_error)
        text, agrees = repetition.agreement(stored, again)
        options.print_result(f"\n{text}")
        repetition.discard(cache)
        return agrees

    with options.kept_tracebacks(registry, results_dir):
        return launch.run_distributed(work, workspace)
