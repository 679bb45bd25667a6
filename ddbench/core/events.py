"""Lifecycle events of stages, for observers such as progress displays and loggers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["started", "step", "finished", "cached", "resumed", "note", "cell", "preview"]

PROGRESS_LINE_SECONDS = 5.0
"""Seconds between two progress lines if the output is not a terminal."""


@dataclass(frozen=True)
class Context:
    """The cell of a grid that an event belongs to.

    Attributes:
        cell: The cell in words, e.g. `wmdd, digits, IPC 10, set 0, fkd, resnet18 seed 0`.
        record: The name of its record. It differs for each configuration that gives other results. The record is
            stored under a longer name, which begins with this one, if there is one of the same key and other numbers.
        configuration: Method, dataset, IPC, protocol, seeds and all settings, as a record holds them.
    """

    cell: str
    record: str
    configuration: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Event:
    """One event in the life of a stage.

    Attributes:
        kind: `started`, `step`, `finished`, `cached` (the artifact exists already), `resumed` (from a checkpoint),
            `note` (a line for the user), `cell` (a line of progress: the estimated time of a grid, the next cell, its
            record), or `preview` (the picture of the distilled set of a finished cell).
        stage: Name of the stage. The stage `grid` counts the finished parts of a grid that other processes compute.
        unit: The part of the stage in words, e.g. the name of a network or `1/4`.
        part: The number of the part, from 0.
        step: Steps done, if `kind` is "step".
        total: Number of steps in all, if `kind` is "step".
        metrics: Values of this step, e.g. `loss`.
        message: Text for the user.
        counted: What a step is: `step`, `epoch`, `image` or `task`.
        context: The cell that the stage is computed for. Several cells may share its result. None: the event belongs
            to no cell, e.g. a note, or the decoding of a dataset.
        image: The PNG file of the picture, if `kind` is "preview".
    """

    kind: Kind
    stage: str
    unit: str = ""
    step: int = 0
    total: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    message: str = ""
    counted: str = "step"
    part: int = 0
    context: Context | None = None
    image: Path | None = None

    @property
    def cell(self) -> str:
        """The cell in words, or an empty string."""
        return self.context.cell if self.context else ""

    @property
    def configuration(self) -> Mapping[str, Any] | None:
        """The configuration of the cell."""
        return self.context.configuration if self.context else None
