"""The core's tables: those that compare methods, and so name none of them. Imports no torch and no pandas."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ddbench.api.hookspecs import hookimpl
from ddbench.api.table import TOP1, Cell, Metric, TableQuery, TableSpec
from ddbench.tables.efficiency import measure_costs
from ddbench.tables.hyperparameters import methods_by_dataset, recipe_settings

if TYPE_CHECKING:
    import pandas as pd

STUDENTS = ("resnet18", "resnet50", "resnet101", "vit_tiny_patch16_224", "vit_small_patch16_224")
REGIMES = ("fkd", "soft", "hard")


def comparison(asked: TableQuery) -> Iterable[Cell]:
    """Every method on every dataset at every IPC, under its default protocol."""
    for dataset in asked.datasets:
        for method in asked.methods:
            for ipc in asked.ipcs:
                yield Cell(method, method, dataset, ipc)


def cross_arch(asked: TableQuery) -> Iterable[Cell]:
    """Every method by students of Table 2; a fifth of the distilled images chooses the epoch (section 5.4)."""
    for dataset in asked.datasets:
        for method in asked.methods:
            for student in STUDENTS:
                for ipc in asked.ipcs:
                    settings = {"evaluator.select_share": 0.2}
                    yield Cell(method, method, dataset, ipc, student, "fkd", settings)


def regimes(asked: TableQuery) -> Iterable[Cell]:
    """Every method under each label regime."""
    for dataset in asked.datasets:
        for method in asked.methods:
            for ipc in asked.ipcs:
                for regime in REGIMES:
                    yield Cell(method, method, dataset, ipc, evaluator=regime)


def with_scores(frame: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """The frame with `ior` of every method and regime, and `hlr` beside the hard labels (see `ddbench.results.scores`).

    Both are of a cell, not of a student: the same on all its lines.
    """
    from ddbench.results.scores import scores
    from ddbench.tables.lines import SETTING_COLUMNS

    frame = frame.assign(ior=float("nan"), hlr=float("nan"))
    if records.empty:
        return frame
    for _, part in frame[frame["state"] == "measured"].groupby(list(SETTING_COLUMNS), dropna=False):
        for score in scores(records[records["name"].isin(part["record"])]).to_dict("records"):
            mine = part[
                (part["method"] == score["method"])
                & (part["ipc"] == score["ipc"])
                & (part["evaluator"] == score["protocol"].partition(" ")[0])
            ].index
            if len(mine) != score["n"]:
                continue  # its students are not all comparable with each other
            frame.loc[mine, "ior"] = score["ior"]
            if score["regime"] == "hard":
                frame.loc[mine, "hlr"] = score["hlr"]
    return frame


@hookimpl
def ddbench_tables() -> Iterable[TableSpec]:
    return [
        TableSpec("comparison", "methods x datasets x IPC", comparison, "WMDD paper, Table 1", ipcs=(1, 10, 50)),
        TableSpec(
            "cross-arch",
            "the same distilled set taught to other networks",
            cross_arch,
            "WMDD paper, Table 2",
            columns=("ipc", "student"),
            metrics={"top1_selected": Metric("top-1", 2, published_as="top1", show_difference=True)},
            ipcs=(50,),
        ),
        TableSpec(
            "efficiency",
            "seconds an iteration, memory and total time at IPC 1, one process a method",
            comparison,
            "WMDD paper, Table 3",
            metrics={
                "seconds_per_iteration": Metric("s / iteration", per_cell=True),
                "peak_memory_gb": Metric("peak GB", per_cell=True),
                "total_seconds": Metric("s for 2,000 iterations", per_cell=True),
            },
            ipcs=(1,),
            fill=measure_costs,
        ),
        TableSpec(
            "hyperparameters",
            "settings by dataset, as the recipes give them",
            methods_by_dataset,
            "WMDD paper, Table 7",
            row="setting",
            columns=(),
            metrics={"value": Metric("value", per_cell=True)},
            fill=recipe_settings,
        ),
        TableSpec(
            "regimes",
            "methods under full, fixed and hard labels, with improvement over random and hard-label recovery",
            regimes,
            columns=("ipc", "evaluator"),
            metrics={**TOP1, "ior": Metric("IOR", 2, per_cell=True), "hlr": Metric("HLR", 2, per_cell=True)},
            finish=with_scores,
        ),
    ]
