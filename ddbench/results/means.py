"""Mean top-1 over a setting, for the curves of the figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ddbench.core.canonical import canonical_json
from ddbench.results.conditions import Facts, Pool, num_changes, pools
from ddbench.results.labels import disambiguate_labels, natural_order, recipe_label, set_labels
from ddbench.results.mixtures import describe_mixture
from ddbench.results.pooling import pool_top1
from ddbench.results.records import Record

if TYPE_CHECKING:
    import pandas as pd

PANEL_FIELDS = ("dataset", "classes", "evaluator", "student")
MEAN_COLUMNS = ("panel", *PANEL_FIELDS, "series", "method", "recipe", "x", "top1", "deviation", "n", "sets", "mixture")


@dataclass(frozen=True)
class Line:
    """Records that share the conditions of their students and the variant of the method that made their sets.

    Attributes:
        panel: The conditions of the students, as canonical JSON.
        variant: The method with its settings, as canonical JSON.
        conditions: The conditions by name.
        config: The dependencies of the sets by name.
        pools: The pools, by value of the setting on the x-axis.
    """

    panel: str
    variant: str
    conditions: Facts
    config: Facts
    pools: dict[float, Pool] = field(default_factory=dict)

    @property
    def all_records(self) -> list[Record]:
        """The records of all values."""
        return [record for pool in self.pools.values() for record in pool.records]


def lines(records: Sequence[Record], x: str) -> list[Line]:
    """Groups records to lines over a setting. Records without the setting are left out.

    Args:
        records: The records.
        x: The setting on the x-axis: a name in `distillation_config` or `evaluation_conditions`, e.g. "ipc".
    """
    by_series: dict[tuple[str, str], Line] = {}
    for pool in pools(records):
        conditions, config = dict(pool.conditions), dict(pool.config)
        value = conditions.pop(x, config.pop(x, None))
        if value is not None:
            panel, variant = canonical_json(conditions), canonical_json(config)
            by_series.setdefault((panel, variant), Line(panel, variant, conditions, config)).pools[float(value)] = pool
    return list(by_series.values())


def main_records(records: Sequence[Record], x: str, limit: int) -> tuple[list[Record], list[str]]:
    """Selects the records of the best-measured variant of each method, or of all variants of a single method.

    Accuracies do not count in the selection. The best-measured variant has a line with the most values of the setting,
    then the most records, then the fewest recipes and changed settings. Conditions under which no line has two values
    are left out, if others have one.

    Args:
        records: The records.
        x: The setting on the x-axis.
        limit: The largest number of variants.

    Returns:
        The records of the selected variants, and the methods of which no variant is selected.
    """
    every = lines(records, x)
    curved = {line.panel for line in every if len(line.pools) > 1}
    by_variant: dict[str, list[Line]] = {}
    for line in (line for line in every if line.panel in curved or not curved):
        by_variant.setdefault(line.variant, []).append(line)
    ranked = sorted(
        by_variant.values(),
        key=lambda group: (
            -max(len(line.pools) for line in group),
            -sum(len(line.all_records) for line in group),
            min(num_changes(record) for line in group for record in line.all_records),
        ),
    )
    by_method: dict[str, list[list[Line]]] = {}
    for variant in ranked:
        by_method.setdefault(variant[0].all_records[0].method, []).append(variant)
    chosen = [variants[0] for variants in by_method.values()] if len(by_method) > 1 else ranked
    kept = [record for variant in chosen[:limit] for line in variant for record in line.all_records]
    return kept, sorted(by_method.keys() - {record.method for record in kept})


def mean_top1(records: Sequence[Record], x: str) -> pd.DataFrame:
    """Averages top-1 over seeds, for each value of a setting.

    Of a student that has several records, the newest counts. Records without the setting are left out.

    Args:
        records: The records.
        x: The setting on the x-axis: a name in `distillation_config` or `evaluation_conditions`, e.g. "ipc".

    Returns:
        One row per panel, series and x. `panel` names the evaluation conditions that its students share; of these,
        `dataset`, `classes`, `evaluator` and `student` have columns. `series` names the variant of the method;
        `method` and `recipe` are part of it. `top1` is the mean in percent and `deviation` the sample standard
        deviation (NaN for one value) over `sets` distilled sets with `n` students, as `results.pooling` defines them.
        `mixture` names the conditions in which the averaged records differ, and other top-1 of the same students
        (`results.mixtures`).
    """
    return mean_of_lines(lines(records, x), x)


def mean_of_lines(every: Sequence[Line], x: str = "") -> pd.DataFrame:
    """Returns the frame of `mean_top1` for lines that are grouped already.

    Args:
        every: The lines.
        x: The setting on the x-axis, which recipes do not count as changed; empty: it is no setting.
    """
    import pandas as pd

    panels: dict[str, tuple[Record, Facts]] = {}
    series: dict[str, tuple[Record, Facts]] = {}
    points: list[tuple[Line, float, Pool]] = []
    for line in every:
        first = line.all_records[0]
        panels.setdefault(line.panel, (first, line.conditions))
        series.setdefault(line.variant, (first, line.config))
        points += [(line, value, point) for value, point in line.pools.items()]
    titles = dict(zip(panels, _titles([*panels.values()]), strict=True))
    labels = dict(zip(series, set_labels(*_unzip([*series.values()])), strict=True))
    rows: list[dict[str, Any]] = []
    for line, value, point in points:
        shared, example = panels[line.panel][0], series[line.variant][0]
        rows.append(
            {
                "panel": titles[line.panel],
                **{name: getattr(shared, name) for name in PANEL_FIELDS},
                "series": labels[line.variant],
                "method": example.method,
                "recipe": recipe_label(example, x),
                "x": value,
                **pooled_columns(point),
            }
        )
    rows.sort(key=lambda row: (natural_order(row["panel"]), natural_order(row["series"]), row["x"]))
    return pd.DataFrame(rows, columns=list(MEAN_COLUMNS))


def _unzip(pairs: Sequence[tuple[Record, Facts]]) -> tuple[list[Record], list[Facts]]:
    return [record for record, _ in pairs], [facts for _, facts in pairs]


def _titles(panels: Sequence[tuple[Record, Facts]]) -> list[str]:
    records, facts = _unzip(panels)
    titles = [
        panel_title(record, [record], f", IPC {record.ipc}" if "ipc" in conditions else "")
        for record, conditions in panels
    ]
    return disambiguate_labels(titles, facts, records)


def panel_title(record: Record, protocols: Iterable[Record], ipc: str = "") -> str:
    """Returns the title of a panel, in two lines.

    Args:
        record: A record of the panel, for the dataset and the student.
        protocols: Records with the protocols of the panel.
        ipc: Text on the images per class.
    """
    images = "" if record.measured_on == "validation images" else f", on {record.measured_on}"
    names = sorted({f"{one.evaluator} v{one.evaluator_version}" for one in protocols})
    return f"{record.dataset}, {record.image_size} px{ipc}{images}\n{', '.join(names)}, {record.student}"


def pooled_columns(pool: Pool) -> dict[str, Any]:
    """Returns the columns of the mean of a pool: `top1`, `deviation`, `n`, `sets` and `mixture`."""
    pooled = pool_top1(pool.students)
    return {
        "top1": pooled.mean,
        "deviation": float("nan") if pooled.deviation is None else pooled.deviation,
        "n": pooled.students,
        "sets": pooled.sets,
        "mixture": describe_mixture(pool.students, [pool]),
    }
