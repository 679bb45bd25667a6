"""`ddbench evaluate`: students on a distilled set from files or from a record."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddbench.cli import options
from ddbench.config.given_sets import SPACES, ZCA
from ddbench.core import interruption
from ddbench.execution import choose, launch

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
@options.computation
@click.pass_obj
def evaluate_command(
    registry: PluginRegistry,
    /,
    source: str,
    dataset: str,
    pixels: str | None,
    classes: Path | None,
    with_random: bool,
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
    from ddbench.pipeline.workspace import Workspace

    executor_used, assignments = choose.choose(executor, ray_address, assignments, registry)
    request = Request(methods=("random",), datasets=(dataset,), ipcs=(1,), assignments=assignments, **request_fields)
    cache = options.open_cache(cache_dir, force)
    workspace = Workspace(registry, cache, data_dir, download=not dry_run, executor=executor_used)

    def work() -> bool:
        echo, warn, random_sets = options.print_result, options.print_error, repeats if with_random else 0
        with (
            options.kept_tracebacks(registry, results_dir),
            interruption.handle_signals(time_limit and time_limit * 60),
        ):
            reading = (pixels, classes, random_sets)
            method, cells = evaluation_cells(source, request, workspace, results_dir, warn, *reading)
            if dry_run:
                recipes = load_recipes(request.recipes, registry)
                planning.dry_run(cells, workspace, recipes, echo, verbose, strict)
                return True
            made = running.run(cells, workspace, results_dir, echo, warn, strict, wide)
        for line in differences(made, method):
            echo(line)
        return len(made) == len(cells)

    if launch.run_distributed(work, workspace) is False:
        sys.exit(1)
