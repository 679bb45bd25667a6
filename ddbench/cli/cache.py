"""`ddbench cache`."""

from __future__ import annotations

from pathlib import Path

import click

from ddbench.cli import options
from ddbench.core.errors import DDBenchError

DAY = 86400


@click.group("cache", cls=options.Group)
def cache_group() -> None:
    """Lists and removes artifacts in the cache."""


@cache_group.command("ls")
@options.cache
def cache_ls(cache_dir: Path) -> None:
    """Lists all artifacts with stage, key, size and age."""
    from ddbench.results import text as results_text

    click.echo(results_text.cache_text(options.open_cache(cache_dir).entries()))


@cache_group.command("prune")
@options.names(
    "--stage", type=options.StageName("checkpoints"), help="Remove only artifacts of this stage, or checkpoints."
)
@click.option(
    "--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="Remove only artifacts older than this."
)
@options.cache
def cache_prune(cache_dir: Path, stage: tuple[str, ...], older_than: float | None) -> None:
    """Removes artifacts from the cache.

    A run that needs a removed artifact computes it again.
    """
    if not stage and older_than is None:
        raise DDBenchError("cache prune: give --stage STAGE or --older-than DAYS (0 removes everything)")
    count, size = options.open_cache(cache_dir).prune(frozenset(stage), (older_than or 0.0) * DAY)
    click.echo(f"removed {count} files, {size / 2**20:.1f} MB")
