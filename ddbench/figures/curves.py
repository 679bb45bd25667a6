"""Draws curves of top-1 over a number: one panel per set of conditions, one line per variant of a method."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from ddbench.core.errors import DDBenchError
from ddbench.core.text import counted
from ddbench.figures import style
from ddbench.results.labels import key_note

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS_PER_ROW = 3
OFFSET, MAX_SPREAD = 0.035, 0.25
"""Horizontal offset between the error bars of two lines, and its maximum between the first and the last, in decades."""
PANEL_WIDTH, PANEL_HEIGHT = 3.6, 3.6
"""Width of a panel without the names of its lines, and its height, in inches."""
MAX_LINES = 8
"""The most lines in a panel."""
TEXT_HEIGHT = 0.17
"""Distance between the names of two lines in inches."""
MAX_NOTES = 3
"""The most mixtures that are named in messages. The others are counted."""
GREY = "#555555"
"""Colour of published curves."""


def with_two_points(frame: pd.DataFrame, missing: str, warn: Callable[[str], None]) -> pd.DataFrame:
    """Returns the panels that have at least two values of x.

    Args:
        frame: Data of the curves.
        missing: Message of the error.
        warn: Called with a message if panels are left out.

    Raises:
        DDBenchError: If no panel is left.
    """
    count = frame.groupby("panel")["x"].transform("nunique")
    if not (count > 1).any():
        raise DDBenchError(missing)
    if single := frame.loc[count < 2, "panel"].nunique():
        warn(f"left out: {counted(single, 'panel')} with one value on the x-axis")
    return frame[count > 1]


def at_most(frame: pd.DataFrame, warn: Callable[[str], None]) -> pd.DataFrame:
    """Returns the `MAX_LINES` lines of each panel with the most points.

    Args:
        frame: Data of the curves.
        warn: Called with a message if lines are left out.
    """
    points = frame.groupby(["panel", "series"])["x"].transform("count")
    ranked = frame.assign(points=points).sort_values("points", ascending=False, kind="stable")
    lines = ranked[["panel", "series"]].drop_duplicates()
    kept = lines.groupby("panel").head(MAX_LINES)
    if others := len(lines) - len(kept):
        warn(f"left out: {counted(others, 'line')}; choose with --methods and --recipe")
    return frame.merge(kept, on=["panel", "series"])


def name_mixtures(frame: pd.DataFrame, setting: str, warn: Callable[[str], None]) -> None:
    """Names the points whose records differ in more than seeds and sets, `MAX_NOTES` at most.

    Args:
        frame: `mean_top1` with a column `published`.
        setting: Name of the setting on the x-axis.
        warn: Called with a message for each of these points, and for the number of the others.
    """
    mixed = frame[~frame["published"] & frame["mixture"].fillna("").ne("")]
    points = (f"{row.series}, {setting} {row.x:g}, {row.dataset} differ: {row.mixture}" for row in mixed.itertuples())
    notes = [f"note: the records of {point}" for point in dict.fromkeys(points)]
    for note in notes[:MAX_NOTES]:
        warn(note)
    if others := len(notes[MAX_NOTES:]):
        warn(f"note: the records of {counted(others, 'other point')} differ too")


def draw(frame: pd.DataFrame, label: str, caption: str) -> Figure:
    """Draws the panels of `mean_top1` with a logarithmic x-axis. Error bars show the standard deviation.

    Args:
        frame: `mean_top1` with a column `published`. Published curves are dashed, with hollow markers.
        label: Label of the x-axis.
        caption: Text below the panels.
    """
    measured = list(frame.loc[~frame["published"], "series"].unique())

    def draw_panel(axes: Axes, data: pd.DataFrame) -> None:
        _draw_panel(axes, data, measured)
        axes.set_xlabel(label)

    return draw_panels(frame, draw_panel, caption)


def draw_panels(
    frame: pd.DataFrame, draw_panel: Callable[[Axes, pd.DataFrame], None], caption: str, caption_height: float = 1.0
) -> Figure:
    """Draws the panels of a figure in rows, with room for the names of the lines to the right of each panel.

    Args:
        frame: Rows with the columns `panel`, the title of their panel, and `series`, the name of their line.
        draw_panel: Draws the rows of one panel on its axes.
        caption: Text below the panels.
        caption_height: The height of the caption in inches.
    """
    from matplotlib.figure import Figure

    panels = list(frame["panel"].unique())
    columns = min(PANELS_PER_ROW, len(panels))
    rows = math.ceil(len(panels) / columns)
    names = style.LETTER * max(map(len, frame["series"])) + 0.4
    size = ((PANEL_WIDTH + names) * columns, PANEL_HEIGHT * rows + caption_height)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= len(panels):
            axes.set_axis_off()
            continue
        draw_panel(axes, frame[frame["panel"] == panels[number]])
        axes.set_title(style.wrapped(panels[number], PANEL_WIDTH - 0.5), loc="left")
        axes.set_ylabel("top-1 accuracy (%)")
    style.add_caption(figure, caption)
    return figure


def _draw_panel(axes: Axes, frame: pd.DataFrame, all_measured: list[str]) -> None:
    axes.set_xscale("log")
    ends: list[tuple[float, float, str, str]] = []
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
            color=colour,
            marker=marker,
            linestyle=stroke,
            markerfacecolor=colour if series in measured else "white",
            capsize=2.5,
        )
        ends.append((float(line["x"].iloc[-1] * 10**offset), float(line["top1"].iloc[-1]), str(series), colour))
        drawn.lines[0].set_gid(f"mean-{all_measured.index(series) if series in measured else 'published'}")
    ticks = sorted(frame["x"].unique())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(axis="y")
    name_lines(axes, ends)


def name_lines(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Writes the name of each line to the right of the panel, in the order of the ends of the lines.

    Args:
        axes: The panel.
        ends: Of each line: x and y of its last point, name and colour.
    """
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    ends = sorted(ends, key=lambda end: end[1])
    heights = spread([(y - low) / (high - low) for _, y, _, _ in ends], TEXT_HEIGHT / (PANEL_HEIGHT - 1.0))
    for (x, y, name, colour), height in zip(ends, heights, strict=True):
        axes.annotate(
            name,
            (x, y),
            (1.06, height),
            textcoords="axes fraction",
            color=colour,
            fontsize=9,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 4},
        )


def spread(heights: list[float], gap: float) -> list[float]:
    """Moves sorted heights apart until neighbours have a distance of at least `gap`. The order is kept.

    Example:
        >>> spread([0.0, 1.0, 1.0], 0.5)
        [0.0, 0.75, 1.25]
    """
    groups: list[tuple[float, int]] = []  # centre and size of heights that touch
    for height in heights:
        centre, size = height, 1
        while groups and centre - groups[-1][0] < gap * (size + groups[-1][1]) / 2:
            other, others = groups.pop()
            centre, size = (centre * size + other * others) / (size + others), size + others
        groups.append((centre, size))
    return [centre + gap * (number - (size - 1) / 2) for centre, size in groups for number in range(size)]


def measurement_note(frame: pd.DataFrame, when: str = "after the last epoch") -> str:
    """Returns the part of a caption on the measured rows of `mean_top1`: statistic, number of students, recipes.

    Args:
        frame: Rows of `mean_top1`.
        when: When the students were measured.
    """
    recipes = ", ".join(sorted(frame["recipe"].unique()))
    students, sets = _range_text(frame["n"], "student"), _range_text(frame["sets"], "distilled set")
    return (
        f"Top-1 on real images that were not trained on, {when}: mean and sample deviation of {students} on "
        f"{sets} a point. Recipe: {recipes}. Names show settings that differ.{key_note(frame['series'])}"
    )


def _range_text(counts: pd.Series[int], noun: str) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low if low == high else f'{low} to {high}'} {noun}{'s' if high > 1 else ''}"
