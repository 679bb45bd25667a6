"""Figure 5a: top-1 over the strength of BatchNorm matching, lambda of the paper's Eq. 15."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ddbench.figures import curves
from ddbench.results.conditions import mean_top1

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ddbench.results.records import Record

SETTING = "method.bn_weight"
PUBLISHED = (
    "Published (WMDD paper, section 5.7 and Figure 5a; 10 images per class; ImageNet-1K, ImageNette, Tiny ImageNet; "
    "\u03bb from 0.1 to 1000): top-1 rises with \u03bb, then is stable from about 10. The paper prints no numbers."
)


def frame(found: Sequence[Record]) -> pd.DataFrame:
    """`measured.means` over the setting bn_weight of any method that has it; 0 has no place on a log axis."""
    mine = mean_top1(found, SETTING).assign(published=False)
    return mine[mine["x"] > 0]


def draw(found: Sequence[Record], warn: Callable[[str], None]) -> Figure:
    """The figure. Raises DDBenchError where nothing was measured at a second lambda."""
    first = found[0]
    again = f"ddbench run --method wmdd --dataset {first.dataset} --ipc 10 --set {SETTING}=1"
    missing = f"figure 'lambda' needs records at a second value of {SETTING}; e.g. {again}"
    shown = curves.with_two_points(frame(found), missing, warn)
    return curves.draw(shown, f"\u03bb ({SETTING})", caption(shown))


def caption(shown: pd.DataFrame) -> str:
    """What was measured, and what the paper says."""
    return f"{curves.measured(shown)}\n{PUBLISHED}"
