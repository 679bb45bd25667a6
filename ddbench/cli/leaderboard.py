"""`ddbench leaderboard`."""

from __future__ import annotations

from pathlib import Path

import click

from ddbench.cli import options


@options.command("leaderboard")
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", type=options.LocalPath(path_type=Path))
@click.option(
    "--output",
    type=options.LocalPath(path_type=Path, file_okay=False),
    default=Path("site"),
    show_default=True,
    help="Folder to write: index.html, and the records and images that it links to.",
)
def leaderboard_command(folders: tuple[Path, ...], output: Path) -> None:
    """Writes a leaderboard of results folders as static HTML.

    FOLDER is a results folder (default: results), an unpacked bundle of ddbench submit, or a folder of several of them.
    The page ranks all results with their scores and filters; each number opens its records. It needs no server and no
    network. No experiment is run.
    """
    from ddbench.report import leaderboard

    page = leaderboard.write(folders or (Path("results"),), output, options.print_error)
    click.echo(f"written: {page}")
