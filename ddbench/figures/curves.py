"""Draws curves of top-1 over a number: one panel per set of conditions, one line per way to make a set."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from ddbench.core.errors import DDBenchError
from ddbench.figures import style
from ddbench.results.labels import key_note

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS_PER_ROW = 3
OFFSET, MAX_SPREAD = 0.035, 0.25
"""Horizontal offset between the error bars of two lines, and its maximum between the first and the last, in decades."""
PANEL_WIDTH = 3.6
"""Width of a panel in inches."""
GREY = "#555555"
"""Colour of published curves."""


def with_two_points(frame: pd.DataFrame, missing: str, warn: Callable[[str], None]) -> pd.DataFrame:
    """Returns the panels that have at least two values of x.

    Args:
        frame: Data of the curves.
        missing: Message of the error.
        warn: Called with a message for each panel that is left out.

    Raises:
        DDBenchError: If no panel is left.
    """
    count = frame.groupby("panel")["x"].transform("nunique")
    if not (count > 1).any():
        raise DDBenchError(missing)
    for panel, x in frame[count < 2].groupby("panel")["x"].first().items():
        warn(f"left out, measured at {x:g} alone: {', '.join(str(panel).splitlines())}")
    return frame[count > 1]


def draw(frame: pd.DataFrame, label: str, caption: str) -> Figure:
    """Draws the panels of `mean_top1` with a logarithmic x-axis. Error bars show the standard deviation.

    Args:
        frame: `mean_top1` with a column `published`. Published curves are dashed, with hollow markers.
        label: Label of the x-axis.
        caption: Text below the panels.
    """
    from matplotlib.figure import Figure

    panels = list(frame["panel"].unique())
    measured = list(frame.loc[~frame["published"], "series"].unique())
    columns = min(PANELS_PER_ROW, len(panels))
    rows = math.ceil(len(panels) / columns)
    legend = style.LETTER * max(map(len, frame["series"])) + 0.8
    size = (PANEL_WIDTH * columns + legend, max(3.4 * rows, 0.21 * len(measured)) + 1.0)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= len(panels):
            axes.set_axis_off()
            continue
        _draw_panel(axes, frame[frame["panel"] == panels[number]], measured)
        axes.set_title(style.wrapped(panels[number], PANEL_WIDTH - 0.5), loc="left")
        axes.set_xlabel(label)
        axes.set_ylabel("top-1 accuracy (%)")
    drawn = {text: handle for axes in grid.flat for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    names = sorted(drawn, key=lambda name: name not in measured)
    figure.legend([drawn[name] for name in names], names, loc="outside right upper", handlelength=3)
    style.add_caption(figure, caption)
    return figure


def _draw_panel(axes: Axes, frame: pd.DataFrame, all_measured: list[str]) -> None:
    axes.set_xscale("log")
    measured = list(frame.loc[~frame["published"], "series"].unique())
    step = min(OFFSET, MAX_SPREAD / len(measured))
    for series in frame["series"].unique():
        line = frame[frame["series"] == series]
        colour, marker, stroke, offset = GREY, "s", "--", 0.0
        if series in measured:
            number = all_measured.index(series)
            colour, marker = style.COLOURS[number % len(style.COLOURS)], style.MARKERS[number % len(style.MARKERS)]
            # Error bars at the same x must not overlap.
            stroke, offset = "-", step * (measured.index(series) - (len(measured) - 1) / 2)
        drawn = axes.errorbar(
            line["x"] * 10**offset,
            line["top1"],
            line["deviation"].fillna(0),
            label=series,
            color=colour,
            marker=marker,
            linestyle=stroke,
            markerfacecolor=colour if series in measured else "white",
            capsize=2.5,
        )
        drawn.lines[0].set_gid(f"mean-{all_measured.index(series) if series in measured else 'published'}")
    ticks = sorted(frame["x"].unique())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(axis="y")


def measurement_note(frame: pd.DataFrame) -> str:
    """Returns the part of a caption on the measured rows of `mean_top1`: statistic, number of students, recipes."""
    recipes = ", ".join(sorted(frame["recipe"].unique()))
    students, sets = _range_text(frame["n"], "student"), _range_text(frame["sets"], "distilled set")
    return (
        f"Top-1 on real images that were not trained on, after the last epoch: mean and sample deviation of {students} "
        f"on {sets} a point. Recipe: {recipes}. The legend shows settings that differ.{key_note(frame['series'])}"
    )


def _range_text(counts: pd.Series[int], noun: str) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low if low == high else f'{low} to {high}'} {noun}{'s' if high > 1 else ''}"
