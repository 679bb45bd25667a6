"""The tables of the paper that compare variants of WMDD. Imports no torch and no pandas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ddbench.api import TOP1, Cell, Metric, TableQuery, TableSpec, hookimpl

if TYPE_CHECKING:
    import pandas as pd

COMBINATIONS = (("wasserstein", "pcbn"), ("cross-entropy", "pcbn"), ("wasserstein", "bn"), ("cross-entropy", "bn"))
LAMBDAS = (0.1, 1, 10, 100, 1000)
LAYERS = (5, 10, 15, 16, 17, 18)
Settings = Mapping[str, Any]
VANILLA: Settings = {"evaluator.cutmix_alpha": None}


def _cells(query: TableQuery, rows: Mapping[str, Settings]) -> Iterable[Cell]:
    """Yields cells of WMDD with the settings of each row, for every dataset and IPC."""
    for dataset in query.datasets:
        for row, settings in rows.items():
            for ipc in query.ipcs:
                yield Cell(row, "wmdd", dataset, ipc, settings=settings)


def ablation(query: TableQuery) -> Iterable[Cell]:
    """Yields cells for each combination of feature loss and regulariser (Table 4).

    With the global BatchNorm term, the cells follow the released script without PCBN (`recover/data_synthesis.py`):
    there is no cross-entropy beside the Wasserstein loss, and cross-entropy with this term is SRe2L, whose weight and
    unsquared norms it takes (0.01; Tiny ImageNet 1).
    """
    for dataset in query.datasets:
        sre2l: Settings = {"method.bn_weight": 1 if dataset == "tiny-imagenet" else 0.01, "method.bn_form": "norm"}
        special: dict[tuple[str, str], Settings] = {
            ("wasserstein", "bn"): {"method.cross_entropy_weight": 0},
            ("cross-entropy", "bn"): sre2l,
        }
        rows = {
            f"{loss} + {regulariser}": {
                **{"method.feature_loss": loss, "method.regulariser": regulariser},
                **special.get((loss, regulariser), {}),
            }
            for loss, regulariser in COMBINATIONS
        }
        yield from _cells(replace(query, datasets=(dataset,)), rows)


def weights(query: TableQuery) -> Iterable[Cell]:
    """Yields cells for each value of lambda in Eq. 15 (Figure 5a)."""
    return _cells(query, {f"{weight:g}": {"method.bn_weight": weight} for weight in LAMBDAS})


def layers(query: TableQuery) -> Iterable[Cell]:
    """Yields cells for each layer whose features are matched (Table 6)."""
    return _cells(query, {str(layer): {"method.layer": layer} for layer in LAYERS})


def sliced(query: TableQuery) -> Iterable[Cell]:
    """Yields the cells of WMDD and sliced WMDD (Table 5)."""
    for dataset in query.datasets:
        for method in ("wmdd", "wmdd-sliced"):
            for ipc in query.ipcs:
                yield Cell(method, method, dataset, ipc)


def with_hours(frame: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """Adds the column `hours` of distillation. Only the first student of each distilled set has a value.

    Args:
        frame: The tidy frame of the table, one row per student.
        records: Not used.

    Returns:
        A new frame.
    """
    duplicates = frame.duplicated(["row", "dataset", "ipc", "setting", "set", "state"])
    return frame.assign(hours=frame["distill_seconds"].astype(float).mask(duplicates) / 3600)


def metric(query: TableQuery) -> Iterable[Cell]:
    """Yields the cells of MMD and Wasserstein (Figure 3, section 5.6), each with class labels and with fkd.

    With class labels no method uses CutMix, and DM never uses siamese augmentation. Crops and flips are kept. The row
    "mmd in WMDD" is WMDD with Gaussian MMD instead of the barycenter.
    """
    rows: tuple[tuple[str, str, Settings], ...] = (
        ("wasserstein (wmdd)", "wmdd", {}),
        ("mmd (dm)", "dm", {"method.strategy": None}),
        ("mmd in WMDD", "wmdd", {"method.feature_loss": "mmd"}),
    )
    for dataset in query.datasets:
        for row, method, settings in rows:
            for ipc in query.ipcs if method in query.methods else ():
                yield Cell(row, method, dataset, ipc, evaluator="hard", settings={**settings, **VANILLA})
                yield Cell(row, method, dataset, ipc, evaluator="fkd", settings=settings)


@hookimpl
def ddbench_tables() -> Iterable[TableSpec]:
    """Returns the tables."""
    return [
        TableSpec(
            "ablation", "WMDD's feature loss and regulariser", ablation, "WMDD paper, Table 4", "loss + regulariser"
        ),
        TableSpec("lambda", "WMDD by the weight of its BatchNorm term", weights, "WMDD paper, Figure 5a", "lambda"),
        TableSpec("layers", "WMDD by the layer whose features it matches", layers, "WMDD paper, Table 6", "layer"),
        TableSpec(
            "metric",
            "MMD against Wasserstein, with and without FKD",
            metric,
            "WMDD paper, Figure 3",
            "distance",
            columns=("ipc", "evaluator"),
        ),
        TableSpec(
            "sliced",
            "WMDD and sliced WMDD, accuracy and time",
            sliced,
            "WMDD paper, Table 5",
            metrics={**TOP1, "hours": Metric("hours")},
            ipcs=(1, 10, 50),
            finish=with_hours,
        ),
    ]
