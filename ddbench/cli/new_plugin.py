"""`ddbench new-plugin`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddbench.cli import options

if TYPE_CHECKING:
    from ddbench.registry.registry import PluginRegistry


@options.command("new-plugin")
@click.argument("name")
@click.option("--evaluator", is_flag=True, help="Create a protocol instead of a method.")
@click.option(
    "--output",
    type=options.LocalPath(path_type=Path, file_okay=False),
    default=Path(),
    show_default=True,
    help="Folder in which the package is created.",
)
@click.pass_obj
def new_plugin_command(registry: PluginRegistry, name: str, evaluator: bool, output: Path) -> None:
    """Creates a plugin package with a method and its tests.

    The package is called ddbench-NAME. The generated method works and passes the conformance tests.
    """
    from ddbench.registry.scaffold import new_plugin

    click.echo(f"written: {new_plugin(registry, name, 'evaluator' if evaluator else 'method', output)}")
