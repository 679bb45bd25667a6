"""The tables that have records, cell by cell, each number with the records that it comes from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ddbench.api.table import TableSpec
from ddbench.core.errors import PluginError
from ddbench.pipeline.request import Request
from ddbench.tables.filling import build_frame
from ddbench.tables.layout import DIFFERENCE, PUBLISHED, blocks
from ddbench.tables.lines import SETTING

if TYPE_CHECKING:
    from ddbench.registry.registry import PluginRegistry

NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?")


@dataclass(frozen=True)
class Source:
    """A record behind a number: its name, which set and student it is, and its own number, if it has one."""

    record: str
    which: str
    text: str


@dataclass
class Cell:
    """What stands in one place. `order` is what it sorts by: its number, empty where it has none."""

    text: str
    order: str
    sources: list[Source] = field(default_factory=list)


@dataclass(frozen=True)
class Block:
    """One setting's part of a table. `columns` are titles, each with its kind: "", "published" or "difference"."""

    heading: str
    columns: list[tuple[str, str]]
    rows: list[list[Cell]]
    notes: list[str]


@dataclass(frozen=True)
class Section:
    """A table, and a block for every setting that something was measured in."""

    spec: TableSpec
    blocks: list[Block]


def sections(registry: PluginRegistry, results_dir: Path, warn: Callable[[str], None]) -> Iterator[Section]:
    """Every table in which something was measured; `warn` is told of one whose plugin fails."""
    nothing_asked = Request(methods=(), datasets=(), ipcs=())
    for spec in registry.tables():
        try:
            frame = _measured(build_frame(spec, nothing_asked, registry, None, results_dir))
        except PluginError as error:
            warn(f"left out: {error}")
            continue
        if len(frame):
            yield Section(spec, [*_blocks(spec, frame)])


def names(found: Iterable[Section]) -> set[str]:
    """The records that stand in some table."""
    cells = (cell for section in found for block in section.blocks for row in block.rows for cell in row)
    return {source.record for cell in cells for source in cell.sources}


def _measured(frame: pd.DataFrame) -> pd.DataFrame:
    """The lines of settings in which something was measured, and those of no setting that stand beside them."""
    loose = frame["image_size"].isna()
    found = [
        part for _, part in frame[~loose].groupby(list(SETTING), dropna=False) if (part["state"] == "measured").any()
    ]
    if not found:
        return frame.head(0)
    lines = pd.concat(found)
    beside = frame[loose & frame["dataset"].isin(lines["dataset"])]
    return frame.loc[sorted([*lines.index, *beside.index])]


def _blocks(spec: TableSpec, frame: pd.DataFrame) -> Iterator[Block]:
    """The table's blocks, without rows and columns in which nothing was measured and nothing is published."""
    known = frame[frame["image_size"].notna()]
    datasets = [known[known["dataset"] == dataset] for dataset in frame["dataset"].drop_duplicates()]
    parts = [part for mine in datasets for _, part in mine.groupby(list(SETTING), sort=False, dropna=False)]
    for laid, part in zip(blocks(spec, frame), parts, strict=True):
        sources = _sources(spec, part[part["record"].notna()])
        told = ~laid.cells.isin(["", "never run"])
        shown = laid.cells.loc[told.iloc[:, 1:].any(axis=1), told.any()]
        rows = []
        for row, *texts in shown.itertuples(index=False, name=None):
            cells = zip(shown.columns[1:], texts, strict=True)
            rows.append([Cell(row, row), *(_cell(text, sources.get((row, head), [])) for head, text in cells)])
        yield Block(laid.heading, [(head, _kind(head)) for head in map(str, shown)], rows, laid.notes)


def _sources(spec: TableSpec, lines: pd.DataFrame) -> dict[tuple[str, str], list[Source]]:
    """The records behind each number, by row and column: a line stands where a block of it alone shows it."""
    found: dict[tuple[str, str], list[Source]] = {}
    for index, line in lines.iterrows():
        (alone,) = blocks(spec, lines.loc[[index]])
        ((row, *texts),) = alone.cells.itertuples(index=False, name=None)
        for head, text in zip(alone.cells.columns[1:], texts, strict=True):
            if text and not _kind(head):
                found.setdefault((row, head), []).append(_source(line, text))
    return found


def _source(line: pd.Series[Any], text: str) -> Source:
    which = f"set {line['repeat']:.0f}, student {line['student_seed']:.0f}"
    # Of a score over several students there is none of each.
    return Source(line["record"], which, text.removesuffix(" (1)") if text.endswith(" (1)") else "")


def _cell(text: str, sources: list[Source]) -> Cell:
    number = NUMBER.match(text)
    return Cell(text, number.group() if number else "", sources)


def _kind(head: str) -> str:
    return next((mark.strip() for mark in (PUBLISHED, DIFFERENCE) if head.endswith(mark)), "")
