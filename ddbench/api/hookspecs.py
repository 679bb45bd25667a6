"""The hook specifications: everything a plugin can give to ddbench. Hooks return values."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from ddbench.api.dataset import DatasetSpec
    from ddbench.api.distiller import Distiller
    from ddbench.api.evaluator import Evaluator
    from ddbench.api.stage import Stage
    from ddbench.api.table import TableSpec
    from ddbench.core.events import Event

PROJECT = "ddbench"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function as the implementation of one of the hooks in this module."""


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
def ddbench_stages() -> Iterable[type[Stage[Any]]]:  # type: ignore[empty-body]
    """Stage classes that this plugin adds: subclasses of `ddbench.api.stage.Stage` with `name` and `version`."""


@hookspec
def ddbench_commands(cli: click.Group) -> None:
    """Adds click commands to `cli`."""


@hookspec
def ddbench_event(event: Event) -> None:
    """Called at every lifecycle event: progress bars, loggers. Must not change anything."""


@hookspec
def ddbench_record(record: Any) -> None:
    """Called with every finished record. Must not change anything.

    An implementation that raises is reported once on stderr and is not called again. Global state that it changes,
    such as random generators, is restored.

    Args:
        record: A `ddbench.results.records.Record`, as it is written to the results folder.
    """
