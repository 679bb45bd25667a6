"""`ddbench list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ddbench.cli import options
from ddbench.cli.listing import KINDS, listing_text

if TYPE_CHECKING:
    from ddbench.registry.registry import PluginRegistry


@options.command("list")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name", required=False)
@click.pass_obj
def list_command(registry: PluginRegistry, kind: str, name: str | None) -> None:
    """Lists the installed methods, datasets, recipes and more.

    With NAME, prints the details of one item: for a method, evaluator or dataset the parameters with types, defaults
    and descriptions, and the recipes that set them; for a method also what its paper computes, what is left out, and
    its cost.
    """
    click.echo(listing_text(kind, name, registry))
