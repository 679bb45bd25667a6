"""Top-1 over the optimiser steps of students that were measured during training: the curves of records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ddbench.core.canonical import canonical_json
from ddbench.core.errors import DDBenchError
from ddbench.core.text import counted
from ddbench.evaluators.length import SETTINGS
from ddbench.figures import curves
from ddbench.results.command import command_of
from ddbench.results.conditions import Pool, pools
from ddbench.results.means import Line, mean_of_lines
from ddbench.results.records import Record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MEASURED_AT = "measure_at"
"""The setting of a protocol that adds a curve to the record. It does not change the student."""
WHEN = "after a number of optimiser steps"
ONE_RUN = (
    "A line is one training run with one schedule of the learning rate, measured during training. Its last point is "
    "the result; an earlier point is not the result of a run of that length, whose rate would have decayed by then."
)


def lines(records: Sequence[Record]) -> list[Line]:
    """Groups the curves of records to lines. Records without a curve are left out.

    Students share a panel if they take equal optimiser steps and differ only in their distilled sets, also in the
    number of images per class. So equal epochs on sets of other sizes are in other panels.

    Args:
        records: The records.
    """
    curved = [_without_points(record) for record in records if record.metrics.curve is not None]
    several = len({record.ipc for record in curved}) > 1
    by_series: dict[tuple[str, str], Line] = {}
    for pool in pools(curved):
        conditions, config = dict(pool.conditions), dict(pool.config)
        for name in SETTINGS:
            conditions.pop(f"evaluator.{name}", None)
        conditions["steps"] = pool.example.metrics.student_steps
        if several:
            config["IPC"] = conditions.pop("ipc")
        panel, variant = canonical_json(conditions), canonical_json(config)
        line = by_series.setdefault((panel, variant), Line(panel, variant, conditions, config))
        for record in pool.records:
            for step, top1 in record.metrics.curve or ():
                point = line.pools.setdefault(float(step), Pool(config, conditions, []))
                point.records.append(_at(record, step, top1))
    return list(by_series.values())


def _without_points(record: Record) -> Record:
    """Returns a record without the setting of its points: students that were measured elsewhere are the same."""
    settings = record.configuration["evaluator_settings"]
    kept = {name: value for name, value in settings.items() if name != MEASURED_AT}
    changed = [name for name in record.configuration.get("changed", ()) if name != f"evaluator.{MEASURED_AT}"]
    configuration = {**record.configuration, "evaluator_settings": kept, "changed": changed}
    return record.model_copy(update={"configuration": configuration})


def _at(record: Record, step: int, top1: float) -> Record:
    metrics = record.metrics.model_copy(update={"top1_last": top1, "student_steps": step, "curve": None})
    return record.model_copy(update={"metrics": metrics})


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """Returns the data of the figure: `mean_top1` over the optimiser steps, with a column `published` (False)."""
    return mean_of_lines(lines(records)).assign(published=False)


def draw(records: Sequence[Record], warn: Callable[[str], None]) -> Figure:
    """Draws the figure.

    Args:
        records: The records; at least one.
        warn: Called with a message for what is left out, for a panel without random images, and for points whose
            records differ.

    Raises:
        DDBenchError: If no record has a curve of two points.
    """
    curved = [record for record in records if record.metrics.curve is not None]
    example = curved[0] if curved else records[0]
    command = command_of(example, settings=() if curved else (f"evaluator.{MEASURED_AT}=[10,30,100]",))
    missing = f"figure 'compute' needs records of students that were measured during training; e.g. {command}"
    if not curved:
        raise DDBenchError(missing)
    data = curves.with_two_points(frame(curved), missing, warn)
    if others := len(records) - len(curved):
        warn(f"left out: {counted(others, 'record')} without a curve")
    if without := [panel for panel, part in data.groupby("panel", sort=False) if "random" not in set(part["method"])]:
        beside = command_of(example, method="random")
        warn(f"note: {counted(len(without), 'panel')} without random images; e.g. {beside}")
    data = curves.at_most(data, warn)
    curves.name_mixtures(data, "step", warn)
    return curves.draw(data, "optimiser steps", caption(data))


def caption(data: pd.DataFrame) -> str:
    """Returns the caption: the measurements, and what an earlier point is."""
    return f"{curves.measurement_note(data, WHEN)}\n{ONE_RUN}"
