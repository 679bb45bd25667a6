"""`ddbench run`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ddbench.cli import options
from ddbench.cli.computation import Computation, computation_options
from ddbench.execution import launch

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
@computation_options
@click.pass_obj
def run_command(
    registry: PluginRegistry,
    /,
    computation: Computation,
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

    with options.kept_tracebacks(registry, computation.results_dir):
        tracker_classes = [registry.tracker(name) for name in trackers]
        executor_used, assignments = computation.choose(assignments, registry)
        request = Request(**request_fields, assignments=assignments)
        cells = experiments(request, registry)
        if note := protocol_note(request, registry):
            options.print_error(note)

        from ddbench.pipeline import dry_run as planning
        from ddbench.pipeline import run as running
        from ddbench.registry.tracking import tracking

        workspace = computation.workspace(registry, executor_used)
        strict = computation.strict
        if computation.dry_run:
            known = load_recipes(request.recipes, registry)
            planning.dry_run(cells, workspace, known, click.echo, computation.verbose, strict)
            return

        def work() -> int:
            results_dir, echo, warn = computation.results_dir, options.print_result, options.print_error
            with computation.stop_requests(), tracking(registry, tracker_classes, results_dir):
                return len(running.run(cells, workspace, results_dir, echo, warn, strict, computation.wide))

        if launch.run_distributed(work, workspace) not in (None, len(cells)):
            sys.exit(1)
