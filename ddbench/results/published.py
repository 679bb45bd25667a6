"""Published numbers: those of the WMDD paper, and for newer methods those of their authors. Imports no torch.

They are shown next to measured numbers.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.config.experiment import Experiment
from ddbench.core.checks import require_type
from ddbench.core.errors import unknown
from ddbench.evaluators.protocols import FullData

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("comparison", "cross-arch", "efficiency", "ablation", "sliced", "layers", "hyperparameters")
"""Names of the published tables, in the paper's order (Tables 1 to 7). Each is a CSV file of that name."""
PAPER_SIZES = {"imagenette": 224, "tiny-imagenet": 224, "imagenet-1k": 224}
"""Image size of each dataset of the paper, in pixels: those of its released code. The paper gives none."""
PAPER_PRECISION = "fp32"
"""Precision of the paper's released code."""
TINY_SIZE = 64
"""Image size of Tiny ImageNet in the recipe `paper`: its native size."""
PAPER_CLASSES = {"imagenette": 10, "tiny-imagenet": 200, "imagenet-1k": 1000}

_PACKAGE = Path(__file__).parent
_INSTALLED = _PACKAGE / "published"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parents[1] / "results" / "paper"
"""Folder of the CSV files: part of the installed package, or of the checkout."""
_QUOTED_NOTES = ("reported elsewhere", "replicated")


def load(table: str | None = None) -> pd.DataFrame:
    """Loads published numbers: one per row, in the paper's reading order.

    Args:
        table: One of TABLES. None: all tables.

    Returns:
        A frame with these columns:

        - `table`; `method`: name of the row in the paper; `ours`: its name in ddbench (a method, an ablation, a layer,
          the path of a setting), or empty.
        - `dataset` ("all": every dataset); `ipc`; `architecture` of the network trained on the images, or empty.
        - `metric` and its `value`: `top1` in percent, times in seconds or hours, `peak_memory_gb` in GB.
        - `error`, its `error_kind` ("deviation" or "standard error") and the number of runs `n`; `source`; `note`.

        `value` and `error` are floats, `ipc` and `n` nullable integers, the rest is text. The values of
        "hyperparameters" are text, so the values of all tables are of mixed type.

    Raises:
        DDBenchError: If the table is unknown.
        TypeError: If the table is neither text nor None.

    Example:
        >>> frame = load("comparison")
        >>> frame[(frame["ours"] == "wmdd") & (frame["dataset"] == "imagenette")]["value"].tolist()
        [40.2, 64.8, 83.5, 87.1]
    """
    import pandas as pd

    require_type("published.load", "table", table, (str, type(None)), f"one of {', '.join(TABLES)}, or None")
    if table is None:
        return pd.concat([load(name).astype({"value": object}) for name in TABLES], ignore_index=True)
    return _frame(table).copy()


@cache
def _frame(table: str) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(printed_rows(table))
    numeric = ["error", "ipc", "n"] + (["value"] if table != "hyperparameters" else [])
    frame[numeric] = frame[numeric].apply(pd.to_numeric)
    return frame.astype({"error": float, "ipc": "Int64", "n": "Int64"})


@cache
def printed_rows(table: str) -> tuple[dict[str, str], ...]:
    """Returns the rows of a table, with every number as the paper prints it (59.30, not 59.3)."""
    if table not in TABLES:
        raise unknown("published table", table, TABLES)
    with (FOLDER / f"{table}.csv").open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def number_text(row: Mapping[str, str]) -> str:
    """Returns the number of a row of `printed_rows` with its error, e.g. "64.8 ± 0.4"."""
    return f"{row['value']} ± {row['error']}" if row["error"] else row["value"]


def is_quoted(note: str) -> bool:
    """Tests by the `note` of a number whether the paper quotes it or measured it under other conditions.

    The paper quotes such numbers from papers with other protocols, or does not give the settings of the measurement.
    """
    return note.startswith(_QUOTED_NOTES)


def lambda_setting() -> tuple[str, str]:
    """Returns the method and the name of the setting that the paper calls lambda (Eq. 15), from its Table 7."""
    path = next(row["ours"] for row in printed_rows("hyperparameters") if row["metric"] == "lambda")
    method, _, setting = path.partition(".")
    return method, setting


def difference_from_paper(experiment: Experiment, classes: int | None = None) -> str | None:
    """Returns the first condition of an experiment that differs from the paper's, in a few words, or None.

    The conditions are dataset, image size, recipe (`paper` or `paper` + `released`), settings (changes of `runtime` do
    not count) and the network of the teacher. The size of the recipe `paper` is accepted too, see `departures`. Method,
    protocol and student are not compared: they are rows and columns of tables.

    Args:
        experiment: The experiment.
        classes: Number of classes of the images, if known. A folder of Tiny ImageNet may hold fewer than all.
    """
    dataset, size = experiment.dataset, experiment.data.image_size
    if dataset not in PAPER_SIZES:
        return f"dataset {dataset} is not in the paper"
    if classes not in (None, PAPER_CLASSES[dataset]):
        return f"{classes} classes instead of {PAPER_CLASSES[dataset]}"
    if size != PAPER_SIZES[dataset] and (dataset, size) != ("tiny-imagenet", TINY_SIZE):
        return f"{size} px instead of {PAPER_SIZES[dataset]}"
    if experiment.recipes not in (("paper",), ("paper", "released")):
        return f"recipe {'+'.join(experiment.recipes)}"
    if changed := [name for name in experiment.changed if not name.startswith("runtime.")]:
        return f"settings changed: {', '.join(changed)}"
    if experiment.teacher.arch != "resnet18":
        return f"teacher {experiment.teacher.arch} instead of resnet18"
    return None


def departures(experiment: Experiment) -> str:
    """Returns what differs from the paper's conditions in a comparable experiment: size, precision, CutMix.

    Args:
        experiment: An experiment without a `difference_from_paper`.

    Returns:
        The departures, e.g. `64 px instead of 224, bf16 instead of fp32`. Empty if there are none.
    """
    size, precision = experiment.data.image_size, experiment.runtime.precision
    texts = []
    if size != PAPER_SIZES[experiment.dataset]:
        texts.append(f"{size} px instead of {PAPER_SIZES[experiment.dataset]}")
    if precision not in ("auto", PAPER_PRECISION):
        texts.append(f"{precision} instead of {PAPER_PRECISION}")
    if isinstance(experiment.evaluator, FullData) and experiment.evaluator.cutmix_alpha is not None:
        texts.append("with CutMix")
    return ", ".join(texts)


def published_text(experiment: Experiment, classes: int | None = None) -> str:
    """Returns the number of the paper's Table 1 for an experiment, e.g. "64.8 ± 0.4", with the `departures`.

    Args:
        experiment: The experiment.
        classes: Number of classes of the images, if known.

    Returns:
        Empty if the conditions, student or protocol differ from the paper's, or if the paper quotes the number.
    """
    if experiment.evaluator_name != experiment.method.default_evaluator or difference_from_paper(experiment, classes):
        return ""
    cell = (experiment.method_name, experiment.dataset, str(experiment.ipc or ""), experiment.student)
    for row in printed_rows("comparison"):
        if (row["ours"], row["dataset"], row["ipc"], row["architecture"]) == cell and not is_quoted(row["note"]):
            number = number_text(row)
            departure = departures(experiment)
            return f"{number} ({departure})" if departure else number
    return ""
