"""Committed records, and the tables of the pages that quote them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ddbench.results import records
from ddbench.results.pooling import Pooled
from ddbench.results.records import Record

RESULTS = Path(__file__).parents[2] / "results"


class Results:
    """Reads the committed records, and the tables of Markdown pages."""

    def collection(self, name: str) -> list[Record]:
        """The records of one folder of `results/reference`."""
        return records.read_all(RESULTS / "reference" / name / "records")

    def number(self, pooled: Pooled) -> str:
        """A pooled top-1 as pages print it."""
        return f"{pooled.mean:.2f}" + ("" if pooled.deviation is None else f" ± {pooled.deviation:.2f}")

    def tables(self, path: Path) -> dict[str, list[list[str]]]:
        """The tables of a page: the cells of their rows, by heading."""
        tables: dict[str, list[list[str]]] = {}
        for text in re.findall(r"(?:^\|.*\n)+", path.read_text(encoding="utf-8"), re.MULTILINE):
            heading, _, *lines = text.splitlines()
            tables[heading] = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        return tables

    def rows(self, heading: str, page: Path = RESULTS / "README.md") -> dict[str, list[str]]:
        """The rows of a table of a page, by their first cell."""
        return {cells[0]: cells[1:] for cells in self.tables(page)[heading]}


@pytest.fixture(scope="session")
def results() -> Results:
    return Results()
