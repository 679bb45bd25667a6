"""The style of the figures, and files that are equal byte by byte for equal numbers."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
COLOURS = (BLUE, VERMILLION, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Palette of Okabe and Ito for colour-blind readers, without its yellow, which is too pale on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""One more than COLOURS, so that pairs of colour and marker repeat only after 56 lines."""
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
    # Keep text as text in an SVG: searchable, and in the font of the surrounding document.
    "svg.fonttype": "none",
    "svg.hashsalt": "ddbench",
}


@contextmanager
def look() -> Iterator[None]:
    """Applies the style to figures that are drawn and saved in this block. Ignores the user's matplotlibrc."""
    from matplotlib import style

    with style.context(["default", _STYLE]):
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Limits the libraries that are already loaded to one thread, so that results do not depend on their number.

    scikit-learn's t-SNE sums in the order in which threads finish.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 1
    if torch:
        torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        if torch:
            torch.set_num_threads(before)


LETTER = 0.075
"""Approximate width of a letter of normal size, in inches."""


def wrapped(text: str, inches: float, letter: float = LETTER) -> str:
    """Breaks each line of a text to a width.

    Args:
        text: The text.
        inches: Width.
        letter: Width of a letter in inches.

    Example:
        >>> wrapped("top-1 over images per class", 1.2)
        'top-1 over\\nimages per class'
    """
    return "\n".join(textwrap.fill(line, max(8, int(inches / letter))) for line in text.splitlines())


def add_caption(figure: Figure, text: str) -> int:
    """Adds a caption below the figure, wrapped to its width. Returns the number of its lines."""
    lines = wrapped(text, figure.get_figwidth(), 0.066)
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=8.5, color="#333333")
    return lines.count("\n") + 1


def save(figure: Figure, stem: Path) -> list[Path]:
    """Writes a figure as SVG and PNG, atomically and without dates or versions.

    Args:
        figure: The figure.
        stem: Path without suffix.

    Returns:
        The two paths.
    """
    from ddbench.core.files import atomic_write

    paths = []
    for form, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
        path = stem.with_name(f"{stem.name}.{form}")
        with atomic_write(path) as partial:
            figure.savefig(partial, format=form, dpi=DPI, metadata=metadata)
        paths.append(path)
    return paths
