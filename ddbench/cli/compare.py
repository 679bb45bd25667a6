"""`ddbench compare`: differences between groups of records, with tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ddbench.cli import options
from ddbench.core.errors import DDBenchError


@options.command("compare")
@click.argument("groups", metavar="GROUP...", nargs=-1, required=True)
@options.datasets("Only records of these datasets.")
@options.ipcs("Only records with these numbers of images per class.")
@options.names("--evaluator", "evaluators", help="Only records of these protocols.")
@options.names("--student", "students", help="Only records of these networks.")
@click.option("--per-class", is_flag=True, help="Print the differences of each class too.")
@options.wide
@options.results
def compare_command(groups: tuple[str, ...], per_class: bool, wide: bool, results_dir: Path, **filters: Any) -> None:
    """Compares groups of records and tests their differences.

    Prints the differences of top-1 with confidence intervals. GROUP is a method, followed by recipes or settings: wmdd,
    "wmdd tuned", "wmdd bn_weight=1"; or the name of a record, for all students on its set. Only students under equal
    conditions are compared (real images, teacher, protocol and its settings, network, device). Students with equal
    seeds are pairs. The tests are over the distilled sets.
    """
    from ddbench.results import comparison, records

    folder = results_dir / "records"
    stored = records.read_all(folder, options.print_error)
    if not stored:
        raise records.no_records_error(folder)
    selected = comparison.Filters(**filters).of(stored)
    if not selected:
        raise DDBenchError("no record has this dataset, IPC, protocol and student (ddbench records lists all)")
    click.echo(comparison.comparison_text(comparison.blocks_of(groups, selected), per_class, wide))
