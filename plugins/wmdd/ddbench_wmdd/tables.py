"""The paper's tables that are about WMDD alone. Imports no torch and no pandas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ddbench.api import TOP1, Cell, Metric, TableQuery, TableSpec, hookimpl

if TYPE_CHECKING:
    import pandas as pd

COMBINATIONS = (("wasserstein", "pcbn"), ("cross-entropy", "pcbn"), ("wasserstein", "bn"), ("cross-entropy", "bn"))
LAMBDAS = (0.1, 1, 10, 100, 1000)
LAYERS = (5, 10, 15, 16, 17, 18)
VANILLA = {"evaluator.cutmix_alpha": None}


def _cells(asked: TableQuery, rows: Mapping[str, Mapping[str, Any]]) -> Iterable[Cell]:
    """WMDD with each row's settings, on every dataset and at every IPC."""
    for dataset in asked.datasets:
        for row, settings in rows.items():
            for ipc in asked.ipcs:
                yield Cell(row, "wmdd", dataset, ipc, settings=settings)


def ablation(asked: TableQuery) -> Iterable[Cell]:
    """Feature loss and regulariser (Table 4), all four in WMDD's batches of whole classes."""
    rows = {
        f"{loss} + {regulariser}": {"method.feature_loss": loss, "method.regulariser": regulariser}
        for loss, regulariser in COMBINATIONS
    }
    return _cells(asked, rows)


def weights(asked: TableQuery) -> Iterable[Cell]:
    """Lambda of Eq. 15 (Figure 5a)."""
    return _cells(asked, {f"{weight:g}": {"method.bn_weight": weight} for weight in LAMBDAS})


def layers(asked: TableQuery) -> Iterable[Cell]:
    """The layer whose features are matched (Table 6)."""
    return _cells(asked, {str(layer): {"method.layer": layer} for layer in LAYERS})


def sliced(asked: TableQuery) -> Iterable[Cell]:
    """WMDD and its sliced sibling (Table 5)."""
    for dataset in asked.datasets:
        for method in ("wmdd", "wmdd-sliced"):
            for ipc in asked.ipcs:
                yield Cell(method, method, dataset, ipc)


def with_hours(frame: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """The frame with `hours` of distillation, once a distilled set: they are the same for all its students."""
    again = frame.duplicated(["row", "dataset", "ipc", "setting", "repeat", "state"])
    return frame.assign(hours=frame["distill_seconds"].astype(float).mask(again) / 3600)


def metric(asked: TableQuery) -> Iterable[Cell]:
    """MMD against Wasserstein (Figure 3, section 5.6), under class labels without CutMix and under fkd.

    Without tricks: no CutMix and no FKD for all, no siamese augmentation for DM; crops and flips stay. `mmd in WMDD`
    is WMDD with Gaussian MMD in the place of the barycenter.
    """
    rows: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
        ("wasserstein (wmdd)", "wmdd", {}),
        ("mmd (dm)", "dm", {"method.strategy": None}),
        ("mmd in WMDD", "wmdd", {"method.feature_loss": "mmd"}),
    )
    for dataset in asked.datasets:
        for row, method, settings in rows:
            for ipc in asked.ipcs if method in asked.methods else ():
                yield Cell(row, method, dataset, ipc, evaluator="hard", settings={**settings, **VANILLA})
                yield Cell(row, method, dataset, ipc, evaluator="fkd", settings=settings)


@hookimpl
def ddbench_tables() -> Iterable[TableSpec]:
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
