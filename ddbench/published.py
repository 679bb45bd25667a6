"""Published numbers, as CSV with the table they come from. They are shown beside measured ones, never as results."""

from __future__ import annotations

import csv
from pathlib import Path

from ddbench.experiment import Experiment

HERE = Path(__file__).parent
FOLDERS = (HERE / "published", HERE.parent / "results" / "paper")
OUR_NAMES = {"Full dataset": "full"}
# Table 1's other rows are quoted there from papers with protocols of their own, or (SRe2L on ImageNette) measured with
# settings that it does not give.
THE_PAPERS_OWN = {"wmdd", "full"}
PAPER_SIZES = {"imagenette": 224, "imagenet-1k": 224, "tiny-imagenet": 64}


def comparison() -> dict[tuple[str, str, int | None], str]:
    """Table 1 of the WMDD paper: (method, dataset, IPC) -> "64.8 ± 0.4"; deviation over 3 runs where it gives one."""
    rows: dict[tuple[str, str, int | None], str] = {}
    for folder in FOLDERS:
        path = folder / "table1_comparison.csv"
        if not path.is_file():
            continue
        with path.open(newline="", encoding="utf-8") as handle:
            for row in csv.DictReader(handle):
                name = OUR_NAMES.get(row["method"], row["method"].lower())
                ipc = int(row["ipc"]) if row["ipc"] else None
                error = f" ± {row['top1_std']}" if row["top1_std"] else ""
                rows[name, row["dataset"], ipc] = f"{row['top1_mean']}{error}"
        break
    return rows


def beside(experiment: Experiment) -> str:
    """Table 1's number where data, size, recipe, networks and protocol are the paper's, else an empty string."""
    size = PAPER_SIZES.get(experiment.dataset)
    changed = [name for name in experiment.changed if not name.startswith("runtime.")]
    if experiment.recipes != ("paper",) or changed or experiment.data.image_size != size:
        return ""
    if {experiment.teacher.arch, experiment.student} != {"resnet18"}:
        return ""
    own = experiment.evaluator == experiment.method_settings.default_evaluator
    if not own or experiment.method not in THE_PAPERS_OWN:
        return ""
    return comparison().get((experiment.method, experiment.dataset, experiment.ipc), "")
