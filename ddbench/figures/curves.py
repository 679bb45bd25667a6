"""Top-1 over a number, a panel for students that may be compared and a line for each way of making a set."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from ddbench.core.errors import DDBenchError
from ddbench.figures import style
from ddbench.results.conditions import key_note

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS_PER_ROW = 3
DODGE, SPREAD = 0.035, 0.25
"""Decades between the error bars of neighbouring lines, and of all lines at most."""
PANEL = 3.6
"""Inches of a panel's width."""
GREY = "#555555"
"""Of what is published."""


def with_two_points(frame: pd.DataFrame, missing: str, warn: Callable[[str], None]) -> pd.DataFrame:
    """The panels that have two values of x or more; `warn` is told which have not.

    Raises DDBenchError, saying `missing`, where no panel is left.
    """
    count = frame.groupby("panel")["x"].transform("nunique")
    if not (count > 1).any():
        raise DDBenchError(missing)
    for panel, x in frame[count < 2].groupby("panel")["x"].first().items():
        warn(f"left out, measured at {x:g} alone: {', '.join(str(panel).splitlines())}")
    return frame[count > 1]


def draw(frame: pd.DataFrame, label: str, text: str) -> Figure:
    """Panels of `measured.means`, x with the axis `label` on a log scale, the caption `text` below.

    Rows whose column `published` is true are dashed, with hollow markers. Error bars: deviation.
    """
    from matplotlib.figure import Figure

    panels = list(frame["panel"].unique())
    ours = list(frame.loc[~frame["published"], "series"].unique())
    columns = min(PANELS_PER_ROW, len(panels))
    rows = math.ceil(len(panels) / columns)
    legend = style.LETTER * max(map(len, frame["series"])) + 0.8
    figure = Figure(figsize=(PANEL * columns + legend, max(3.4 * rows, 0.21 * len(ours)) + 1.0), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= len(panels):
            axes.set_axis_off()
            continue
        _panel(axes, frame[frame["panel"] == panels[number]], ours)
        axes.set_title(style.wrapped(panels[number], PANEL - 0.5), loc="left")
        axes.set_xlabel(label)
        axes.set_ylabel("top-1 accuracy (%)")
    drawn = {text: handle for axes in grid.flat for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    names = sorted(drawn, key=lambda name: name not in ours)
    figure.legend([drawn[name] for name in names], names, loc="outside right upper", handlelength=3)
    style.caption(figure, text)
    return figure


def _panel(axes: Axes, frame: pd.DataFrame, ours: list[str]) -> None:
    axes.set_xscale("log")
    mine = list(frame.loc[~frame["published"], "series"].unique())
    step = min(DODGE, SPREAD / len(mine))
    for series in frame["series"].unique():
        line = frame[frame["series"] == series]
        colour, marker, stroke, shift = GREY, "s", "--", 0.0
        if series in mine:
            number = ours.index(series)
            colour, marker = style.COLOURS[number % len(style.COLOURS)], style.MARKERS[number % len(style.MARKERS)]
            # Side by side, so that error bars at the same x can be told apart.
            stroke, shift = "-", step * (mine.index(series) - (len(mine) - 1) / 2)
        drawn = axes.errorbar(
            line["x"] * 10**shift,
            line["top1"],
            line["deviation"].fillna(0),
            label=series,
            color=colour,
            marker=marker,
            linestyle=stroke,
            markerfacecolor=colour if series in mine else "white",
            capsize=2.5,
        )
        drawn.lines[0].set_gid(f"mean-{ours.index(series) if series in mine else 'published'}")
    ticks = sorted(frame["x"].unique())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(axis="y")


def measured(frame: pd.DataFrame) -> str:
    """The caption's line on rows of `measured.means`: statistic, number of students, recipes."""
    recipes = ", ".join(sorted(frame["recipe"].unique()))
    students, sets = _range(frame["n"], "student"), _range(frame["sets"], "distilled set")
    return (
        f"Top-1 on real images that were not trained on, after the last epoch: mean and sample deviation of {students} "
        f"on {sets} a point. Recipe: {recipes}. Settings that differ stand in the legend.{key_note(frame['series'])}"
    )


def _range(counts: pd.Series[int], what: str) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low if low == high else f'{low} to {high}'} {what}{'s' if high > 1 else ''}"
