"""Mean top-1 over a setting, for the curves of the figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ddbench.core.canonical import canonical_json
from ddbench.results.conditions import Facts, distillation_config, evaluation_conditions, student_key
from ddbench.results.labels import disambiguate_labels, natural_order, recipe_label, set_labels
from ddbench.results.pooling import pool
from ddbench.results.records import Record

if TYPE_CHECKING:
    import pandas as pd

PANEL_FIELDS = ("dataset", "classes", "evaluator", "student")
MEAN_COLUMNS = ("panel", *PANEL_FIELDS, "series", "method", "recipe", "x", "top1", "deviation", "n", "sets")


def mean_top1(records: Sequence[Record], x: str) -> pd.DataFrame:
    """Averages top-1 over seeds, for each value of a setting.

    A student that has several records counts once. Records without the setting are left out.

    Args:
        records: The records.
        x: The setting on the x-axis: a name in `distillation_config` or `evaluation_conditions`, e.g. "ipc".

    Returns:
        One row per panel, series and x. `panel` names the evaluation conditions that its students share; of these,
        `dataset`, `classes`, `evaluator` and `student` have columns. `series` names the way to make the distilled set;
        `method` and `recipe` are part of it. `top1` is the mean in percent and `deviation` the sample standard
        deviation (NaN for one value) over `sets` distilled sets with `n` students, as `results.pooling` defines them.
    """
    import pandas as pd

    students: dict[tuple[str, str, float], dict[tuple[str, int], Record]] = {}
    panels: dict[str, tuple[Record, Facts]] = {}
    series: dict[str, tuple[Record, Facts]] = {}
    for record in records:
        conditions, config = evaluation_conditions(record), distillation_config(record)
        value = conditions.pop(x, config.pop(x, None))
        if value is not None:
            panel, way = canonical_json(conditions), canonical_json(config)
            panels.setdefault(panel, (record, conditions))
            series.setdefault(way, (record, config))
            students.setdefault((panel, way, float(value)), {})[student_key(record)] = record
    titles = dict(zip(panels, _titles([*panels.values()], x), strict=True))
    labels = dict(zip(series, set_labels(*_unzip([*series.values()])), strict=True))
    rows: list[dict[str, Any]] = []
    for (panel, way, value), group in students.items():
        shared, example = panels[panel][0], series[way][0]
        pooled = pool([record.metrics.top1_last for record in group.values()], [digest for digest, _ in group])
        rows.append(
            {
                "panel": titles[panel],
                **{name: getattr(shared, name) for name in PANEL_FIELDS},
                "series": labels[way],
                "method": example.method,
                "recipe": recipe_label(example, x),
                "x": value,
                "top1": pooled.mean,
                "deviation": float("nan") if pooled.deviation is None else pooled.deviation,
                "n": pooled.students,
                "sets": pooled.sets,
            }
        )
    rows.sort(key=lambda row: (natural_order(row["panel"]), natural_order(row["series"]), row["x"]))
    return pd.DataFrame(rows, columns=list(MEAN_COLUMNS))


def _unzip(pairs: Sequence[tuple[Record, Facts]]) -> tuple[list[Record], list[Facts]]:
    return [record for record, _ in pairs], [facts for _, facts in pairs]


def _titles(panels: Sequence[tuple[Record, Facts]], x: str) -> list[str]:
    records, facts = _unzip(panels)
    titles = []
    for record in records:
        ipc = "" if x == "ipc" else f", IPC {record.ipc}"
        images = "" if record.measured_on == "validation images" else f", on {record.measured_on}"
        title = f"{record.dataset}, {record.image_size} px{ipc}{images}"
        titles.append(f"{title}\n{record.evaluator} v{record.evaluator_version}, {record.student}")
    return disambiguate_labels(titles, facts, records)
