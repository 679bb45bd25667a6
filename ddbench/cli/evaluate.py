"""`ddbench evaluate`: students on a distilled set from files or from a record."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddbench.cli import options
from ddbench.cli.computation import Computation, computation_options
from ddbench.config.given_sets import SPACES, ZCA
from ddbench.execution import launch

if TYPE_CHECKING:
    from ddbench.registry.registry import PluginRegistry


@options.command("evaluate")
@click.argument("source", metavar="SET")
@click.option("--dataset", required=True, help="Dataset that the set was distilled from.")
@options.students
@options.names(
    "--evaluator", "evaluators", help="Protocols (default: fkd; own for a set with soft labels or a learning rate)."
)
@click.option(
    "--pixels",
    type=click.Choice([*SPACES, ZCA]),
    help="Space of float images: unit (0 to 1), or normalised by the mean and deviation of this dataset (zca is "
    "refused).",
)
@click.option(
    "--classes",
    type=options.LocalPath(path_type=Path),
    help="File that maps the set's classes to the dataset's: one dataset class per line, in the order of the set's "
    "classes, or JSON.",
)
@click.option(
    "--random/--no-random", "with_random", default=True, help="Also evaluate random real images at this IPC (default)."
)
@options.measures
@options.experiment
@computation_options
@click.pass_obj
def evaluate_command(
    registry: PluginRegistry,
    /,
    source: str,
    dataset: str,
    pixels: str | None,
    classes: Path | None,
    with_random: bool,
    computation: Computation,
    assignments: tuple[str, ...],
    repeats: int,
    **request_fields: Any,
) -> None:
    """Trains students on a given distilled set.

    Prints their top-1 on the real validation set. SET is a folder of class folders, a file (.safetensors, .npz, .pt), a
    folder that ddbench export wrote, a record (its name or file), or hf:OWNER/NAME (a dataset of the Hugging Face
    hub). The same students are trained on random real images, and the difference is printed. --repeats is the number
    of sets of random images.
    """
    from ddbench.pipeline import dry_run as planning
    from ddbench.pipeline import run as running
    from ddbench.pipeline.composition import load_recipes
    from ddbench.pipeline.evaluate_set import differences, evaluation_cells
    from ddbench.pipeline.request import Request

    executor_used, assignments = computation.choose(assignments, registry)
    request = Request(methods=("random",), datasets=(dataset,), ipcs=(1,), assignments=assignments, **request_fields)
    workspace = computation.workspace(registry, executor_used)
    results_dir, strict, wide = computation.results_dir, computation.strict, computation.wide

    def work() -> bool:
        echo, warn, random_sets = options.print_result, options.print_error, repeats if with_random else 0
        with options.kept_tracebacks(registry, results_dir), computation.stop_requests():
            reading = (pixels, classes, random_sets)
            method, cells = evaluation_cells(source, request, workspace, results_dir, warn, *reading)
            if computation.dry_run:
                recipes = load_recipes(request.recipes, registry)
                planning.dry_run(cells, workspace, recipes, echo, computation.verbose, strict)
                return True
            made = running.run(cells, workspace, results_dir, echo, warn, strict, wide)
        for line in differences(made, method):
            echo(line)
        return len(made) == len(cells)

    if launch.run_distributed(work, workspace) is False:
        sys.exit(1)
