"""The tables of the report. Each cell links to the records of its number."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ddbench.api.table import TableSpec
from ddbench.core.errors import PluginError
from ddbench.pipeline.request import Request
from ddbench.tables.frame import build_frame
from ddbench.tables.layout import DIFFERENCE, PUBLISHED, text_blocks
from ddbench.tables.rows import SETTING_COLUMNS, Row

if TYPE_CHECKING:
    from ddbench.registry.registry import PluginRegistry
    from ddbench.results.records import Record

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
        links: Links to the records of the number.
    """

    text: str
    order: str
    links: list[RecordLink] = field(default_factory=list)


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


def sections(
    registry: PluginRegistry, results_dir: Path, stored: Sequence[Record], warn: Callable[[str], None]
) -> Iterator[Section]:
    """Builds all tables that have a measured number.

    Args:
        registry: The installed plugins, which define the tables.
        results_dir: The results folder.
        stored: Its records.
        warn: Receives a message for each table whose plugin fails.

    Yields:
        The tables in the order of the registry.
    """
    request = Request(methods=(), datasets=(), ipcs=())
    for spec in registry.tables():
        try:
            frame = _measured_settings(build_frame(spec, request, registry, None, results_dir, stored=stored))
        except PluginError as error:
            warn(f"left out: {error}")
            continue
        if len(frame):
            yield Section(spec, [*_blocks(spec, frame)])


def linked_records(tables: Iterable[Section]) -> set[str]:
    """Collects the records that have a number in a table.

    Args:
        tables: The tables of the report.

    Returns:
        The names of the records.
    """
    cells = (cell for section in tables for block in section.blocks for row in block.rows for cell in row)
    return {link.record for cell in cells for link in cell.links}


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
    return Cell(text, number.group() if number else "", links)


def _kind(title: str) -> str:
    return next((suffix.strip() for suffix in (PUBLISHED, DIFFERENCE) if title.endswith(suffix)), "")
