"""`ddbench tune`: a search over settings with as many trials for every method."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ddbench.cli import options
from ddbench.cli.computation import Computation, computation_options
from ddbench.execution import launch

if TYPE_CHECKING:
    from ddbench.registry.registry import PluginRegistry


@options.command("tune")
@options.names("--method", "--methods", "methods", required=True, help="Methods of the search.")
@click.option(
    "--over",
    multiple=True,
    required=True,
    metavar="SECTION.NAME=VALUES",
    help="Setting to search: method.NAME or evaluator.NAME, with values (1,10) or a range (1e-4..1e-2). The name of "
    "one method or protocol can replace the section: wmdd.NAME. Can be repeated for other settings.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=2),
    help="Draw this number of trials at random for each method (default: the whole grid).",
)
@click.option(
    "--trial-repeats",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of distilled sets of a trial, with one student each.",
)
@options.datasets("Datasets of the search.", required=True)
@options.ipcs("Images per class.")
@options.students
@options.names("--evaluator", "evaluators", help="Protocols (default: own-protocol, the default of each method).")
@options.experiment
@computation_options
@click.pass_obj
def tune_command(
    registry: PluginRegistry,
    /,
    over: tuple[str, ...],
    trials: int | None,
    trial_repeats: int,
    computation: Computation,
    assignments: tuple[str, ...],
    **request_fields: Any,
) -> None:
    """Searches settings with equally many trials for every method.

    Trials are measured on held-out training images (--set data.holdout=0.1, the default here). The point with the
    highest mean top-1 of each method is then run on the validation images with the whole training set, over --repeats
    sets and --seeds students. An interrupted search resumes.

    \b
    ddbench tune --method wmdd,random --dataset imagenette --ipc 10 \\
        --recipe quick --repeats 3 --over method.bn_weight=1,10 \\
        --over evaluator.learning_rate=5e-4,1e-3
    """
    from ddbench.pipeline.request import Request, protocol_note

    with options.kept_tracebacks(registry, computation.results_dir):
        executor_used, assignments = computation.choose(assignments, registry)
        request = Request(**request_fields, assignments=assignments)

        from ddbench.pipeline import dry_run as planning
        from ddbench.pipeline import run as running
        from ddbench.pipeline.tuning import Search
        from ddbench.pipeline.winners import trials_text, tuning_text, winners_of

        search = Search(request, over, trials, trial_repeats, registry)
        if note := protocol_note(request, registry):
            options.print_error(note)
        workspace = computation.workspace(registry, executor_used)
        results_dir, strict, wide = computation.results_dir, computation.strict, computation.wide
        if computation.dry_run:
            planning.dry_run(search.cells, workspace, search.known, click.echo, computation.verbose, strict)
            click.echo(f"{'# ' if computation.verbose else ''}{search.plan_text(workspace)}")
            return

        def work() -> bool:
            echo, warn = options.print_result, options.print_error
            with computation.stop_requests():
                made = running.run(search.cells, workspace, results_dir, lambda _: None, warn, strict)
                candidates = search.candidates(made)
                winners = winners_of(candidates)
                echo(trials_text(candidates) + "\n")
                cells = search.winner_cells({method: each.trials[0] for method, each in winners.items()})
                final = running.run(cells, workspace, results_dir, echo, warn, strict, wide) if cells else []
            echo("\n" + tuning_text(candidates, winners, final))
            return len(made) == len(search.cells) and len(final) == len(cells)

        if launch.run_distributed(work, workspace) is False:
            sys.exit(1)
