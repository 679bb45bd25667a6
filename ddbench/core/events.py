"""Lifecycle events of stages, for observers such as progress displays and loggers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["started", "step", "finished", "cached", "resumed", "note"]

PROGRESS_LINE_SECONDS = 5.0
"""Seconds between two progress lines if the output is not a terminal."""


@dataclass(frozen=True)
class Event:
    """One event in the life of a stage.

    Attributes:
        kind: `started`, `step`, `finished`, `cached` (the artifact exists already), `resumed` (from a checkpoint) or
            `note` (a line for the user).
        stage: Name of the stage. The stage `grid` counts the finished parts of a grid that other processes compute.
        unit: The part of the stage, e.g. the name of a network or `1/4`.
        step: Steps done, if `kind` is "step".
        total: Number of steps in all, if `kind` is "step".
        metrics: Values of this step, e.g. `loss`.
        message: Text for the user.
        cell: The cell of the grid that needs the stage. Several cells may share it.
        counted: What a step is: `step`, `epoch`, `image` or `task`.
        configuration: The configuration of that cell, as a record holds it. Events of other processes have none.
    """

    kind: Kind
    stage: str
    unit: str = ""
    step: int = 0
    total: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    message: str = ""
    cell: str = ""
    counted: str = "step"
    configuration: Mapping[str, Any] | None = field(default=None, repr=False)
