"""`ddbench run`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddbench.cli import options
from ddbench.core import interruption
from ddbench.execution import choose, launch

if TYPE_CHECKING:
    from ddbench.registry.registry import PluginRegistry


@options.command("run")
@options.names("--method", "--methods", "methods", required=True, help="Methods of the grid.")
@options.datasets("Datasets of the grid.", required=True)
@options.ipcs("Images per class.")
@options.students
@options.names("--evaluator", "evaluators", help="Protocols (default: own-protocol, the default of each method).")
@options.measures
@options.names(
    "--track",
    "trackers",
    help="Send losses, accuracies, images and records to tensorboard, wandb or mlflow (docs/trackers.md).",
)
@options.experiment
@options.computation
@click.pass_obj
def run_command(
    registry: PluginRegistry,
    /,
    results_dir: Path,
    cache_dir: Path,
    data_dir: Path | None,
    dry_run: bool,
    verbose: bool,
    strict: bool,
    wide: bool,
    force: tuple[str, ...],
    time_limit: float | None,
    executor: str,
    ray_address: str | None,
    assignments: tuple[str, ...],
    trackers: tuple[str, ...],
    **request_fields: Any,
) -> None:
    """Distils datasets, trains students and prints their top-1.

    Top-1 is measured on the real validation set. Each student gives a record in the results folder. Stages that are in
    the cache are not computed again, and an interrupted run resumes. With --set data.holdout=0.1, a tenth of the
    training images is held out from teacher and method, and top-1 is measured on these images.
    """
    from ddbench.pipeline.composition import load_recipes
    from ddbench.pipeline.request import Request, experiments, protocol_note

    with options.kept_tracebacks(registry, results_dir):
        tracker_classes = [registry.tracker(name) for name in trackers]
        executor_used, assignments = choose.choose(executor, ray_address, assignments, registry)
        request = Request(**request_fields, assignments=assignments)
        cells = experiments(request, registry)
        if note := protocol_note(request, registry):
            options.print_error(note)

        from ddbench.pipeline import dry_run as planning
        from ddbench.pipeline import run as running
        from ddbench.pipeline.workspace import Workspace
        from ddbench.registry.tracking import tracking

        cache = options.open_cache(cache_dir, force)
        workspace = Workspace(registry, cache, data_dir, download=not dry_run, executor=executor_used)
        if dry_run:
            planning.dry_run(cells, workspace, load_recipes(request.recipes, registry), click.echo, verbose, strict)
            return

        def work() -> int:
            limit = time_limit and time_limit * 60
            with interruption.handle_signals(limit), tracking(registry, tracker_classes, results_dir):
                echo, warn = options.print_result, options.print_error
                return len(running.run(cells, workspace, results_dir, echo, warn, strict, wide))

        if launch.run_distributed(work, workspace) not in (None, len(cells)):
            sys.exit(1)
