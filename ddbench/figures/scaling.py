"""Top-1 over images per class, method by method, beside what the paper reports of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from ddbench.figures import curves
from ddbench.results import published
from ddbench.results.conditions import mean_top1

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ddbench.results.records import Record

PAPERS_PROTOCOL = "fkd"


def frame(found: Sequence[Record]) -> pd.DataFrame:
    """`measured.means` over "ipc", with a column `published`, true in the rows that are of the paper's Table 1.

    These are of the methods that the paper measured itself, in panels of its dataset, protocol and student that hold
    the method; size, recipe and teacher may well differ.
    """
    mine = mean_top1(found, "ipc").assign(published=False)
    theirs = published.load("comparison")
    theirs = theirs[theirs["ours"].isin(published.THE_PAPERS_OWN) & theirs["ipc"].notna()]
    parts = [mine]
    for panel, students in mine.groupby("panel", sort=False):
        shared = students.iloc[0]
        if shared["evaluator"] != PAPERS_PROTOCOL or shared["classes"] != published.PAPER_CLASSES.get(
            shared["dataset"]
        ):
            continue
        rows = theirs[
            (theirs["dataset"] == shared["dataset"])
            & (theirs["architecture"] == shared["student"])
            & theirs["ours"].isin(students["method"])
        ]
        parts.append(
            pd.DataFrame(
                {
                    "panel": panel,
                    "dataset": shared["dataset"],
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


def draw(found: Sequence[Record], warn: Callable[[str], None]) -> Figure:
    """The figure. Raises DDBenchError where nothing was measured or published at a second IPC."""
    first = found[0]
    again = f"ddbench run --method {first.method} --dataset {first.dataset} --ipc 1 --ipc 10 --ipc 50"
    missing = f"figure 'scaling' needs a second number of images per class; e.g. {again}"
    shown = curves.with_two_points(frame(found), missing, warn)
    return curves.draw(shown, "images per class", caption(shown))


def caption(shown: pd.DataFrame) -> str:
    """What was measured, and what is quoted."""
    text = curves.measured(shown[~shown["published"]])
    if shown["published"].any():
        sizes = {name: published.PAPER_SIZES[name] for name in shown.loc[shown["published"], "dataset"].unique()}
        pixels = ", ".join(f"{name} {size} px" for name, size in sizes.items())
        text += f"\nDashed: published, not measured here: WMDD paper, Table 1 ({pixels}, the paper's recipe, 3 runs)."
    return text
