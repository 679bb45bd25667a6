"""The WMDD paper's numbers, as printed: they stand beside measured ones, never as results. Imports no torch."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.config.experiment import Experiment
from ddbench.core.errors import unknown

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("comparison", "cross-arch", "efficiency", "ablation", "sliced", "layers", "hyperparameters")
"""Names of the published tables, in the paper's order (Tables 1 to 7): each is a CSV file of that name."""
PAPER_SIZES = {"imagenette": 224, "tiny-imagenet": 64, "imagenet-1k": 224}
PAPER_CLASSES = {"imagenette": 10, "tiny-imagenet": 200, "imagenet-1k": 1000}
# Table 1's other rows are quoted there from papers with protocols of their own, or (SRe2L on ImageNette) measured with
# settings that it does not give.
THE_PAPERS_OWN = {"wmdd", "full"}

HERE = Path(__file__).parent
INSTALLED = HERE / "published"
FOLDER = INSTALLED if INSTALLED.is_dir() else HERE.parents[1] / "results" / "paper"


def load(table: str | None = None) -> pd.DataFrame:
    """The numbers of one of TABLES (None: of all of them), one a row, in the paper's reading order.

    Columns: `table`; `method`, the row's name in the paper, and `ours`, its name in ddbench (a method, an ablation, a
    layer, the path of a setting; empty where there is none); `dataset` ("all": every one), `ipc`, `architecture` (of
    the network that is trained on the images, empty where the paper names none); `metric` and its `value`; `error`,
    its `error_kind` ("deviation" or "standard error") and the `n` that it is over; `source` and `note`. `top1` is in
    percent, times in seconds or hours, `peak_memory_gb` in GB. `value` and `error` are floats, `ipc` and `n` nullable
    integers, the rest text; the values of "hyperparameters" are text, so that of all tables they are of mixed type.

    Raises DDBenchError for an unknown table.
    """
    import pandas as pd

    if table is None:
        return pd.concat([load(name).astype({"value": object}) for name in TABLES], ignore_index=True)
    frame = pd.DataFrame(_printed(table))
    numeric = ["error", "ipc", "n"] + (["value"] if table != "hyperparameters" else [])
    frame[numeric] = frame[numeric].apply(pd.to_numeric)
    return frame.astype({"error": float, "ipc": "Int64", "n": "Int64"})


@cache
def _printed(table: str) -> tuple[dict[str, str], ...]:
    """The rows of a table with every number as the paper prints it (59.30, not 59.3)."""
    if table not in TABLES:
        raise unknown("published table", table, TABLES)
    with (FOLDER / f"{table}.csv").open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def comparable(experiment: Experiment, classes: int | None = None) -> str | None:
    """None where the cell's conditions are the paper's, else the first that is not, in a few words.

    These are dataset, image size, recipe (`paper` alone), settings (none changed but runtime.*) and teacher's network;
    method, protocol and student are for a table's rows and columns to tell. `classes` is how many the images at hand
    have, where that is known: a Tiny ImageNet folder may hold a part of them. The paper gives no size for Tiny
    ImageNet: here its native 64 px.
    """
    dataset, size = experiment.dataset, experiment.data.image_size
    if dataset not in PAPER_SIZES:
        return f"dataset {dataset} is not in the paper"
    if classes not in (None, PAPER_CLASSES[dataset]):
        return f"{classes} classes instead of {PAPER_CLASSES[dataset]}"
    if size != PAPER_SIZES[dataset]:
        return f"{size} px instead of {PAPER_SIZES[dataset]}"
    if experiment.recipes != ("paper",):
        return f"recipe {'+'.join(experiment.recipes)}"
    if changed := [name for name in experiment.changed if not name.startswith("runtime.")]:
        return f"settings changed: {', '.join(changed)}"
    if experiment.teacher.arch != "resnet18":
        return f"teacher {experiment.teacher.arch} instead of resnet18"
    return None


def published_text(experiment: Experiment, classes: int | None = None) -> str:
    """Table 1's number, "64.8 ± 0.4", where the conditions (see `comparable`), student and protocol are the paper's.

    Else, and where the paper did not measure it itself, an empty string.
    """
    own = experiment.evaluator_name == experiment.method.default_evaluator
    if not own or experiment.method_name not in THE_PAPERS_OWN or comparable(experiment, classes):
        return ""
    ipc = str(experiment.ipc or "")
    cell = (experiment.method_name, experiment.dataset, ipc, experiment.student)
    for row in _printed("comparison"):
        if (row["ours"], row["dataset"], row["ipc"], row["architecture"]) == cell:
            return f"{row['value']} ± {row['error']}" if row["error"] else row["value"]
    return ""
