"""Lifecycle events: what a stage tells its observers (progress display, loggers)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["started", "step", "finished", "cached", "resumed", "note"]


PLAIN_SECONDS = 5.0
"""Seconds between two progress lines where the output is not a terminal."""


@dataclass(frozen=True)
class Event:
    """One step in the life of a stage.

    Attributes:
        kind: What happens: a stage is started, makes a step, is finished, is found in the cache, is resumed from a
            checkpoint, or prints a note.
        stage: The stage; `grid` counts the tasks of a grid that workers compute.
        unit: The part of the stage, for people.
        step: The number of steps that are done.
        total: The number of all steps; 0: unknown.
        metrics: Numbers by name, e.g. loss and top1.
        message: A line for people.
        cell: The cell of the grid that needs the stage; several cells may share it. Empty: none.
        configuration: The configuration of that cell, as a record holds it.
    """

    kind: Kind
    stage: str
    unit: str = ""
    step: int = 0
    total: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    message: str = ""
    cell: str = ""
    configuration: Mapping[str, Any] | None = field(default=None, repr=False)
