"""`ddbench report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddbench.cli import options

if TYPE_CHECKING:
    from ddbench.registry.registry import PluginRegistry


@options.command("report")
@options.results
@click.option(
    "--output",
    type=options.LocalPath(path_type=Path, dir_okay=False),
    help="File to write (default: report.html in the results folder).",
)
@click.pass_obj
def report_command(registry: PluginRegistry, results_dir: Path, output: Path | None) -> None:
    """Writes all results to one HTML file.

    The file holds tables with published numbers, figures, images and records. It needs no network. Tables can be sorted
    and filtered, and each number links to its records. No experiment is run.
    """
    from ddbench.core.files import atomic_write
    from ddbench.report.page import page

    path = output or results_dir / "report.html"
    text = page(registry, results_dir, options.print_error)
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    click.echo(f"written: {path}")
