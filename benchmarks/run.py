"""Runs every benchmark, writes results/benchmarks/PART-DEVICE.json and prints one table."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from importlib import import_module

from measuring import Row, table, write

PARTS = (
    "startup",
    "reading",
    "folders",
    "barycenters",
    "recover",
    "networks",
    "training",
    "several_students",
    "estimates",
    "end_to_end",
)
"""Modules in this folder, each with `measure(repetitions)`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the parts in turn and writes each when it is done; then prints all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, metavar="PART", help=f"repeat; of {', '.join(PARTS)}")
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each case; the median counts (default: 3)")
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    minutes: dict[str, float] = {}
    for part in options.only or PARTS:
        start = time.perf_counter()
        measured = import_module(part).measure(options.repetitions)
        minutes[part] = (time.perf_counter() - start) / 60
        write(part, measured)
        rows += measured
    print(f"all parts\n\n{table(rows)}\n")
    each = ", ".join(f"{part} {taken:.1f}" for part, taken in minutes.items())
    print(f"{sum(minutes.values()):.1f} minutes: {each}")


if __name__ == "__main__":
    main()
