"""The hooks that a plugin can implement. Each implementation is a function marked with `hookimpl`."""

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
    from ddbench.api.measure import Measure
    from ddbench.api.stage import Stage
    from ddbench.api.table import TableSpec
    from ddbench.core.events import Event

PROJECT = "ddbench"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Decorator that marks a function as the implementation of the hook of the same name, e.g. `ddbench_distillers`."""


@hookspec
def ddbench_distillers() -> Iterable[type[Distiller]]:  # type: ignore[empty-body]
    """Returns the methods of this plugin: subclasses of Distiller."""


@hookspec
def ddbench_evaluators() -> Iterable[type[Evaluator]]:  # type: ignore[empty-body]
    """Returns the protocols of this plugin: subclasses of Evaluator."""


@hookspec
def ddbench_measures() -> Iterable[type[Measure]]:  # type: ignore[empty-body]
    """Returns the measures of this plugin: subclasses of Measure."""


@hookspec
def ddbench_datasets() -> Iterable[DatasetSpec]:  # type: ignore[empty-body]
    """Returns the datasets of this plugin."""


@hookspec
def ddbench_tables() -> Iterable[TableSpec]:  # type: ignore[empty-body]
    """Returns the tables of this plugin."""


@hookspec
def ddbench_recipes() -> Iterable[Path]:  # type: ignore[empty-body]
    """Returns the paths of the YAML recipe files of this plugin."""


@hookspec
def ddbench_stages() -> Iterable[type[Stage[Any]]]:  # type: ignore[empty-body]
    """Returns the stages of this plugin: subclasses of `ddbench.api.stage.Stage` with `name` and `version`."""


@hookspec
def ddbench_trackers() -> Iterable[type[Any]]:  # type: ignore[empty-body]
    """Returns the experiment trackers of this plugin: subclasses of `ddbench.api.Tracker` with a `name`."""


@hookspec
def ddbench_commands(cli: click.Group) -> None:
    """Adds commands to the command line.

    Args:
        cli: The click group `ddbench`.
    """


@hookspec
def ddbench_event(event: Event) -> None:
    """Observes an event of a stage, e.g. for a progress display or a logger.

    Args:
        event: The event. The implementation must not change any state of the run.
    """


@hookspec
def ddbench_record(record: Any) -> None:
    """Observes a finished record, e.g. for an experiment tracker.

    If an implementation raises an exception, the exception is reported once on stderr and the implementation is not
    called again. Global state that it changes, such as random generators, is restored.

    Args:
        record: The `ddbench.results.records.Record` that is written to the results folder.
    """
