"""Top-1 over images per class, with the numbers that the paper measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from ddbench.core.text import counted
from ddbench.figures import curves
from ddbench.results import published
from ddbench.results.command import command_of
from ddbench.results.means import main_records, mean_top1

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ddbench.results.records import Record

PAPER_PROTOCOL = "fkd"


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """Returns the data of the figure: `mean_top1` over IPC, with a column `published`.

    Published rows are the numbers of the paper's Table 1 that the paper measured (not those that it quotes). They are
    added for the methods of a panel if its dataset, protocol and student are the paper's. Image size, recipe and
    teacher may differ.
    """
    means = mean_top1(records, "ipc").assign(published=False)
    table = published.load("comparison")
    table = table[~table["note"].map(published.is_quoted) & table["ipc"].notna()]
    parts = [means]
    for panel, students in means.groupby("panel", sort=False):
        first = students.iloc[0]
        classes = published.PAPER_CLASSES.get(first["dataset"])
        if first["evaluator"] != PAPER_PROTOCOL or first["classes"] != classes:
            continue
        rows = table[
            (table["dataset"] == first["dataset"])
            & (table["architecture"] == first["student"])
            & table["ours"].isin(students["method"])
        ]
        parts.append(
            pd.DataFrame(
                {
                    "panel": panel,
                    "dataset": first["dataset"],
                    "series": rows["ours"] + ", published",
                    "method": rows["ours"],
                    "x": rows["ipc"].astype(float),
                    "top1": rows["value"],
                    "deviation": rows["error"],
                    "n": rows["n"],
                    "published": True,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def draw(records: Sequence[Record], warn: Callable[[str], None]) -> Figure:
    """Draws the figure.

    Args:
        records: The records; at least one.
        warn: Called with a message for what is left out, and for points whose records differ.

    Raises:
        DDBenchError: If no panel has a second IPC, measured or published.
    """
    first = records[0]
    command = command_of(first, ipcs=(1, 10, 50))
    missing = f"figure 'scaling' needs a second number of images per class; e.g. {command}"
    chosen, left_out = chosen_records(records)
    data = curves.with_two_points(frame(chosen), missing, warn)
    if len(chosen) < len(records):
        methods = f" of {', '.join(left_out)} and" if left_out else ""
        count = counted(len(records) - len(chosen), "record")
        warn(f"left out: {count}{methods} of other settings; choose with --methods and --recipe")
    curves.name_mixtures(data, "IPC", warn)
    return curves.draw(data, "images per class", caption(data))


def chosen_records(records: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """Selects records such that no panel has more than `curves.MAX_LINES` lines, with those of the paper.

    Returns:
        The records, and the methods that are left out.
    """
    for limit in range(curves.MAX_LINES, 1, -1):
        chosen = main_records(records, "ipc", limit)
        if frame(chosen[0]).groupby("panel")["series"].nunique().max() <= curves.MAX_LINES:
            return chosen
    return main_records(records, "ipc", 1)


def caption(data: pd.DataFrame) -> str:
    """Returns the caption: the measured and the published numbers."""
    text = curves.measurement_note(data[~data["published"]])
    if data["published"].any():
        sizes = {name: published.PAPER_SIZES[name] for name in data.loc[data["published"], "dataset"].unique()}
        pixels = ", ".join(f"{name} {size} px" for name, size in sizes.items())
        text += f"\nDashed: published, not measured here: WMDD paper, Table 1 ({pixels}, the paper's recipe, 3 runs)."
    return text
