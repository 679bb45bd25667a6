"""The hook specifications: everything a plugin can give to ddbench. Hooks return values."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from ddbench.data.spec import DatasetSpec
    from ddbench.distiller import Distiller
    from ddbench.evaluator import Evaluator
    from ddbench.events import Event
    from ddbench.tables import TableSpec

PROJECT = "ddbench"
hookspec = pluggy.HookspecMarker(PROJECT)


@hookspec
def ddbench_distillers() -> Iterable[type[Distiller]]:  # type: ignore[empty-body]
    """Distiller classes that this plugin adds."""


@hookspec
def ddbench_evaluators() -> Iterable[type[Evaluator]]:  # type: ignore[empty-body]
    """Evaluator classes that this plugin adds."""


@hookspec
def ddbench_datasets() -> Iterable[DatasetSpec]:  # type: ignore[empty-body]
    """Dataset specifications that this plugin adds."""


@hookspec
def ddbench_tables() -> Iterable[TableSpec]:  # type: ignore[empty-body]
    """Table specifications that this plugin adds."""


@hookspec
def ddbench_recipes() -> Iterable[Path]:  # type: ignore[empty-body]
    """YAML recipe files that this plugin ships."""


@hookspec
def ddbench_commands(cli: click.Group) -> None:
    """Adds click commands to `cli`."""


@hookspec
def ddbench_event(event: Event) -> None:
    """Called at every lifecycle event: progress bars, loggers. Must not change anything."""
