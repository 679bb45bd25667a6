"""`ddbench new-plugin`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddbench.cli import options

if TYPE_CHECKING:
    from ddbench.registry.registry import PluginRegistry
    from ddbench.registry.scaffold import Kind


@options.command("new-plugin")
@click.argument("name")
@click.option("--method", "kind", flag_value="method", default=True, help="Create a method (default).")
@click.option("--evaluator", "kind", flag_value="evaluator", help="Create a protocol.")
@click.option("--dataset", "kind", flag_value="dataset", help="Create a dataset.")
@click.option("--table", "kind", flag_value="table", help="Create a table.")
@click.option("--stage", "kind", flag_value="stage", help="Create a stage, and a method that uses it.")
@click.option(
    "--output",
    type=options.LocalPath(path_type=Path, file_okay=False),
    default=Path(),
    show_default=True,
    help="Folder in which the package is created.",
)
@click.pass_obj
def new_plugin_command(registry: PluginRegistry, name: str, kind: Kind, output: Path) -> None:
    """Creates a plugin package and its tests.

    The package is called ddbench-NAME. It has one working method, protocol, dataset, table or stage, and tests that
    pass. The tests of a method or protocol are the conformance tests.
    """
    from ddbench.registry.scaffold import new_plugin

    click.echo(f"written: {new_plugin(registry, name, kind, output)}")
