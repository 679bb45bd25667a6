"""Runs every benchmark, writes results/benchmarks/PART-DEVICE.json and prints one table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

from measuring import Row, table, write

PARTS = ("startup", "barycenters", "recover", "networks", "training", "end_to_end")
"""Modules beside this one, each with `measure(repetitions)`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The parts in turn, each written when it is done; then all of them together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, metavar="PART", help=f"repeat; of {', '.join(PARTS)}")
    parser.add_argument("--repetitions", type=int, default=3, help="of everything; medians are told (default: 3)")
    asked = parser.parse_args(arguments)
    rows: list[Row] = []
    for part in asked.only or PARTS:
        found = import_module(part).measure(asked.repetitions)
        write(part, found)
        rows += found
    print(f"all parts\n\n{table(rows)}")


if __name__ == "__main__":
    main()
