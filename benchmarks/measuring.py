"""Shared measuring code: runs interleaved in one process on the same input, medians, and the table of results."""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tabulate import tabulate

from ddbench.nn import device as devices
from ddbench.results import provenance

RESULTS = Path(__file__).parent.parent / "results" / "benchmarks"
SETTLE = 0.1
"""Seconds of pause before each measurement: threads of NumPy's BLAS spin that long after their work."""
COLUMNS = ("part", "case", "reference", "ours", "limit", "ours/limit", "reference/ours", "agreement")


@dataclass(frozen=True)
class Row:
    """One result: seconds of the plain reference, of ours, and of the least work that the hardware must do (limit).

    `agreement` describes the numerical difference of ours and the reference.
    """

    part: str
    case: str
    ours: float
    reference: float | None = None
    limit: float | None = None
    agreement: str = ""

    @property
    def over_limit(self) -> float | None:
        """ours/limit."""
        return None if self.limit is None else self.ours / self.limit

    @property
    def faster(self) -> float | None:
        """reference/ours."""
        return None if self.reference is None else self.reference / self.ours


def device() -> torch.device:
    """Returns the device to measure: CUDA if available."""
    chosen = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    devices.prepare(chosen)
    return chosen


def seconds(run: Callable[[], object]) -> float:
    """Returns the seconds of one call, including work on the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def interleaved(runs: Mapping[str, Callable[[], object]], repetitions: int = 9, warm: int = 2) -> dict[str, float]:
    """Returns the median seconds of each of `runs`, called in turn, so that a disturbance affects all of them."""
    for _ in range(warm):
        for run in runs.values():
            run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    gc.collect()
    gc.disable()
    try:
        for _ in range(repetitions):
            for name, run in runs.items():
                time.sleep(SETTLE)
                taken[name].append(seconds(run))
    finally:
        gc.enable()
    return {name: statistics.median(values) for name, values in taken.items()}


def difference(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Returns the largest difference, relative to the largest value of the reference."""
    return float((ours - reference).abs().max() / reference.abs().max())


def table(rows: Iterable[Row]) -> str:
    """Formats the rows as a table."""

    def milliseconds(value: float | None) -> str:
        return "" if value is None else f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"

    def ratio(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    lines = [
        (
            *(row.part, row.case),
            *map(milliseconds, (row.reference, row.ours, row.limit)),
            *map(ratio, (row.over_limit, row.faster)),
            row.agreement,
        )
        for row in rows
    ]
    return tabulate(lines, headers=COLUMNS, tablefmt="github", disable_numparse=True)


def write(part: str, rows: list[Row]) -> None:
    """Writes `results/benchmarks/PART-DEVICE.json` with device and versions, and prints the table."""
    described = devices.describe(device())
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {"part": part, "device": described, **provenance.provenance(), "rows": [asdict(row) for row in rows]}
    path = RESULTS / f"{part}-{described['type']}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{described['name']}, {described['threads']} threads\n\n{table(rows)}\n", file=sys.stdout)
