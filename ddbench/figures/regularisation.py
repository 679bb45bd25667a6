"""Figure 5a: top-1 over the weight of BatchNorm matching, lambda of the paper's Eq. 15."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ddbench.core.errors import DDBenchError
from ddbench.core.text import counted
from ddbench.figures import curves
from ddbench.results import published
from ddbench.results.command import command_of
from ddbench.results.means import lines, mean_top1

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ddbench.results.records import Record

METHOD, _NAME = published.lambda_setting()
SETTING = f"method.{_NAME}"
"""The setting on the x-axis. Every method with this setting has its own panels."""
PUBLISHED = (
    "Published (WMDD paper, section 5.7 and Figure 5a; 10 images per class; ImageNet-1K, ImageNette, Tiny ImageNet; "
    "\u03bb from 0.1 to 1000): top-1 rises with \u03bb, then is stable from about 10. The paper prints no numbers."
)


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """Returns the data of the figure: `mean_top1` over lambda, in separate panels for each method.

    The meaning of the setting of this name depends on the method, so methods do not share an axis. 0 is left out
    because the axis is logarithmic. Lines with one value are left out.
    """
    import pandas as pd

    parts = []
    for method in dict.fromkeys(record.method for record in records):
        of_method = lines([record for record in records if record.method == method], SETTING)
        swept = [line for line in of_method if len(line.pools.keys() - {0.0}) > 1]
        means = mean_top1([record for line in swept for record in line.all_records], SETTING)
        parts.append(means.assign(published=False, panel=f"{method}, " + means["panel"].astype(str)))
    joined = pd.concat(parts, ignore_index=True)
    return joined[joined["x"] > 0]


def draw(records: Sequence[Record], warn: Callable[[str], None]) -> Figure:
    """Draws the figure.

    Args:
        records: The records; at least one.
        warn: Called with a message for what is left out, and for points whose records differ.

    Raises:
        DDBenchError: If no line has a second value of lambda.
    """
    example = next((record for record in records if record.method == METHOD), records[0])
    command = command_of(example, method=METHOD, settings=(f"{SETTING}=1",))
    missing = f"figure 'lambda' needs records at a second value of {SETTING}; e.g. {command}"
    data = frame(records)
    if data.empty:
        raise DDBenchError(missing)
    if others := len(records) - int(data["n"].sum()):
        warn(f"left out: {counted(others, 'record')} without another value of {SETTING} in the same conditions")
    data = curves.at_most(data, warn)
    curves.name_mixtures(data, SETTING, warn)
    return curves.draw(data, f"\u03bb ({SETTING})", caption(data))


def caption(data: pd.DataFrame) -> str:
    """Returns the caption: the measurements, and the report of the paper."""
    return f"{curves.measurement_note(data)}\n{PUBLISHED}"
