"""The tables of the report. Each cell links to the records of its number."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ddbench.api.table import TableSpec
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.request import Request
from ddbench.tables.frame import build_frame, table_errors
from ddbench.tables.layout import DIFFERENCE, PUBLISHED, text_blocks
from ddbench.tables.rows import SETTING_COLUMNS, Row

if TYPE_CHECKING:
    from ddbench.registry.registry import PluginRegistry
    from ddbench.results.records import Record

HEADLINE = "comparison"
"""The table whose largest block stands at the top of the page."""
MAX_LINKS = 50
"""The most records that a cell links to."""
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?")


@dataclass(frozen=True)
class RecordLink:
    """A link from a number to one of its records.

    Args:
        record: Name of the record.
        label: Which distilled set and student the record is of.
        text: The number of this record alone; empty if it has none.
    """

    record: str
    label: str
    text: str


@dataclass
class Cell:
    """A cell of a table.

    Args:
        text: Its text.
        order: The value that the column is sorted by; empty if the cell has no number.
        links: Links to the records of the number: at most `MAX_LINKS`.
        unlinked: The number of further records.
    """

    text: str
    order: str
    links: list[RecordLink] = field(default_factory=list)
    unlinked: int = 0


@dataclass(frozen=True)
class Block:
    """The part of a table that holds the numbers of one setting.

    Args:
        heading: The setting.
        columns: Title and kind of each column. The kind is "", "published" or "difference".
        rows: The cells of each row.
        notes: Lines below the table.
    """

    heading: str
    columns: list[tuple[str, str]]
    rows: list[list[Cell]]
    notes: list[str]


@dataclass(frozen=True)
class Section:
    """A table with one block for each setting that has a measured number."""

    spec: TableSpec
    blocks: list[Block]
    records: frozenset[str]
    """Names of the records that have a number in the table."""


def sections(
    registry: PluginRegistry, results_dir: Path, stored: Sequence[Record], warn: Callable[[str], None]
) -> list[Section]:
    """Builds all tables that have a measured number.

    Args:
        registry: The installed plugins, which define the tables.
        results_dir: The results folder.
        stored: Its records.
        warn: Receives a message for each table that fails.

    Returns:
        The tables: `HEADLINE` first, then by their numbers of records.
    """
    sections = []
    request = Request(methods=(), datasets=(), ipcs=())
    for spec in registry.tables():
        try:
            frame = build_frame(spec, request, registry, None, results_dir, stored=stored)
            with table_errors(spec, registry, results_dir):
                frame = _measured_settings(frame)
                if len(frame):
                    sections.append(Section(spec, [*_blocks(spec, frame)], frozenset(frame["record"].dropna())))
        except DDBenchError as error:
            warn(f"left out: {error}")
    return sorted(sections, key=lambda section: (section.spec.name != HEADLINE, -len(section.records)))


def headline(tables: Iterable[Section]) -> Block | None:
    """Returns the block of the table `HEADLINE` that has the most records: its measured numbers, the best row first.

    Rows are ordered by the column with the most numbers, the last of several.
    """
    blocks = [block for section in tables if section.spec.name == HEADLINE for block in section.blocks]
    if not blocks:
        return None
    block = max(blocks, key=lambda block: sum(len(c.links) + c.unlinked for row in block.rows for c in row))
    shown = [number for number, (_, kind) in enumerate(block.columns) if not kind]
    rows = [[row[number] for number in shown] for row in block.rows]
    rows = [row for row in rows if any(cell.links for cell in row)]
    ranked = max(range(1, len(shown)), key=lambda number: (sum(bool(row[number].links) for row in rows), number))
    rows.sort(key=lambda row: float(row[ranked].order or "-inf"), reverse=True)
    return Block(block.heading, [block.columns[number] for number in shown], rows, [])


def _measured_settings(frame: pd.DataFrame) -> pd.DataFrame:
    """The lines of all settings with a measured number, and the lines without setting of the same datasets."""
    without_setting = frame["image_size"].isna()
    groups = frame[~without_setting].groupby(list(SETTING_COLUMNS), dropna=False)
    measured = [lines for _, lines in groups if (lines["state"] == "measured").any()]
    if not measured:
        return frame.head(0)
    lines = pd.concat(measured)
    same_datasets = frame[without_setting & frame["dataset"].isin(lines["dataset"])]
    return frame.loc[sorted([*lines.index, *same_datasets.index])]


def _blocks(spec: TableSpec, frame: pd.DataFrame) -> Iterator[Block]:
    """The blocks of a table, without rows and columns that have neither measured nor published numbers."""
    for text_block in text_blocks(spec, frame):
        has_number = ~text_block.cells.isin(["", "never run"])
        shown = text_block.cells.loc[has_number.iloc[:, 1:].any(axis=1), has_number.any()]
        rows = []
        for row, *texts in shown.itertuples(index=False, name=None):
            cells = [
                _cell(text, text_block.sources.get((row, column), []))
                for column, text in zip(shown.columns[1:], texts, strict=True)
            ]
            rows.append([Cell(row, row), *cells])
        columns = [(column, _kind(column)) for column in map(str, shown)]
        yield Block(text_block.heading, columns, rows, text_block.notes)


def _cell(text: str, sources: list[tuple[Row, str]]) -> Cell:
    number = NUMBER.match(text)
    links = [
        RecordLink(row["record"], f"set {row['repeat']:.0f}, student {row['student_seed']:.0f}", own_text)
        for row, own_text in sources
        if row["record"] is not None
    ]
    return Cell(text, number.group() if number else "", links[:MAX_LINKS], len(links[MAX_LINKS:]))


def _kind(title: str) -> str:
    return next((suffix.strip() for suffix in (PUBLISHED, DIFFERENCE) if title.endswith(suffix)), "")
