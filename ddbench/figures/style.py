"""How the paper's figures look, and how they are written: the same bytes for the same numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
COLOURS = (BLUE, VERMILLION, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind people can tell apart; without its yellow, too pale on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""One more than there are colours, so that their pairs repeat after 56 lines."""
DPI = 200
_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.titlesize": 10,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "text.parse_math": False,
    # Text stays text in an SVG: searchable, and in the font of the document that it is put into.
    "svg.fonttype": "none",
    "svg.hashsalt": "ddbench",
}


@contextmanager
def look() -> Iterator[None]:
    """Figures drawn and saved in this block have the paper's look, whatever a person's own matplotlibrc says."""
    from matplotlib import style

    with style.context(["default", _STYLE]):
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """What is computed in this block does not depend on how many threads there are.

    scikit-learn's t-SNE adds up in the order in which threads end. Of libraries that are loaded already.
    """
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


LETTER = 0.075
"""Inches of a letter of the usual size, about."""


def wrapped(text: str, inches: float, letter: float = LETTER) -> str:
    """Every line of `text` broken to the width."""
    return "\n".join(textwrap.fill(line, max(8, int(inches / letter))) for line in text.splitlines())


def caption(figure: Figure, text: str) -> int:
    """Puts `text` below everything, wrapped to the figure's width: what was measured, and how. Returns its lines."""
    lines = wrapped(text, figure.get_figwidth(), 0.066)
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=8.5, color="#333333")
    return lines.count("\n") + 1


def save(figure: Figure, stem: Path) -> list[Path]:
    """Writes `stem`.svg and `stem`.png, each whole or not at all, without dates or versions. Returns their paths."""
    from ddbench.core.files import atomic_write

    paths = []
    for form, unsaid in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
        path = stem.with_name(f"{stem.name}.{form}")
        with atomic_write(path) as partial:
            figure.savefig(partial, format=form, dpi=DPI, metadata=unsaid)
        paths.append(path)
    return paths
