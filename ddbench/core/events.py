"""Lifecycle events: what a stage tells its observers (progress display, loggers)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# Upstream first. The command line offers them, the cache forces a stage together with those after it.
STAGES = ("data", "teacher", "statistics", "method", "distill", "labels", "evaluate", "measure")

Kind = Literal["started", "step", "finished", "cached", "resumed", "note"]


PLAIN_SECONDS = 5.0
"""Seconds between two progress lines where the output is not a terminal."""


@dataclass(frozen=True)
class Event:
    """One thing that happened: `kind` of `stage` (teacher, statistics, distill, evaluate, data), for `unit`.

    The stage `grid` counts the units of work of a grid that others compute (`ddbench.pipeline.executor`).

    `step` of `total` with `metrics` (floats, e.g. loss, top1) where kind is "step"; `message` for people.
    """

    kind: Kind
    stage: str
    unit: str = ""
    step: int = 0
    total: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    message: str = ""
