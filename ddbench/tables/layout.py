"""A table's tidy frame as blocks to read: one a setting, rows by cell, published numbers in columns of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from tabulate import tabulate

from ddbench.showing import frame_text
from ddbench.tables import Metric, TableSpec
from ddbench.tables.filling import published_rows
from ddbench.tables.lines import SETTING

FORMATS = ("text", "markdown", "latex", "csv", "html", "json")
STYLES = {"text": "simple", "markdown": "github", "latex": "latex_booktabs", "html": "html"}
PUBLISHED, DIFFERENCE = " published", " difference"

Column = tuple[Any, ...]
"""What stands over a column: its IPC, then what else is across."""


@dataclass
class Block:
    """One setting's part of a table: a heading, cells as text, and notes below."""

    heading: str
    cells: pd.DataFrame
    notes: list[str] = field(default_factory=list)


def text_of(spec: TableSpec, frame: pd.DataFrame, form: str) -> str:
    """The frame in one of FORMATS: csv and json are the tidy frame itself, the others its blocks."""
    if form in ("csv", "json"):
        return frame_text(frame, form)
    parts = []
    for block in blocks(spec, frame):
        body = tabulate(
            block.cells.to_dict("list"), headers="keys", tablefmt=STYLES[form], disable_numparse=True, showindex=False
        )
        parts.append(_dressed(form, block, body))
    return "\n\n".join(parts)


def _dressed(form: str, block: Block, body: str) -> str:
    notes = block.notes
    if form == "latex":
        return "\n".join([f"% {block.heading}", *(f"% {note}" for note in notes), body])
    if form == "html":
        from html import escape

        return "\n".join([f"<h3>{escape(block.heading)}</h3>", body, *(f"<p>{escape(note)}</p>" for note in notes)])
    gap = "\n" if form == "markdown" else ""
    heading = f"**{block.heading}**" if form == "markdown" else block.heading
    below = [f"{gap}{note}" for note in notes]
    return "\n".join([heading + gap, body, *below])


def blocks(spec: TableSpec, frame: pd.DataFrame) -> Iterator[Block]:
    """A block for every setting that something was measured in, and one for a dataset without any."""
    for dataset in frame["dataset"].drop_duplicates():
        mine = frame[frame["dataset"] == dataset]
        known = mine[mine["image_size"].notna()]
        loose = mine[mine["image_size"].isna()]
        if known.empty:
            yield _block(spec, dataset, loose)
        for _, part in known.groupby(list(SETTING), sort=False, dropna=False):
            yield _block(spec, _heading(part), pd.concat([part, loose]))


def _heading(part: pd.DataFrame) -> str:
    first = part.iloc[0]
    words = [f"{first['dataset']}, {first['image_size']:.0f} px", f"recipe {first['recipe']}"]
    words += [f"teacher {first['teacher']}", str(first["device"])]
    if first["measured_on"] != "validation images":
        words.append(f"measured on {first['measured_on']}")
    return ", ".join(words)


def _block(spec: TableSpec, heading: str, part: pd.DataFrame) -> Block:
    theirs = published_rows(spec)
    theirs = theirs[theirs["dataset"] == part["dataset"].iloc[0]]
    members: dict[tuple[str, Column], list[int]] = {}
    for number, each in enumerate(part.to_dict("records")):
        members.setdefault((each["row"], _column(spec, each)), []).append(number)
    columns = sorted(
        dict.fromkeys(column for _, column in members), key=lambda column: (column[0] is None, column[0] or 0)
    )
    usual = part.loc[part["state"] == "measured", "protocol"].mode()
    heads = [(column, name, _title(spec, column, name)) for column in columns for name in spec.metrics]
    notes: list[str] = []
    lines = []
    for row in dict.fromkeys(part["row"]):
        line = {spec.row: row}
        for column, name, head in heads:
            mine = part.iloc[members.get((row, column), [])]
            line[head] = _shown(spec, mine, name, usual.iloc[0] if len(usual) else "", notes)
            line |= _beside(mine, name, head)
        lines.append(line)
    if not theirs.empty:
        notes.append(_source(theirs))
    cells = pd.DataFrame(lines).fillna("")
    order = [spec.row, *(f"{head}{of}" for _, _, head in heads for of in ("", PUBLISHED, DIFFERENCE))]
    return Block(heading, cells[[name for name in order if name in cells and (cells[name] != "").any()]], notes)


def _column(spec: TableSpec, row: Mapping[Any, Any]) -> Column:
    ipc = None if pd.isna(row["ipc"]) else int(row["ipc"])
    return (ipc, *(row[name] for name in spec.across if name != "ipc"))


def _title(spec: TableSpec, column: Column, name: str) -> str:
    ipc = "all" if column[0] is None else f"IPC {column[0]}"
    words = [ipc, *(str(part) for part in column[1:])]
    return " ".join([*words, spec.metrics[name].title] if len(spec.metrics) > 1 else words)


def _shown(spec: TableSpec, mine: pd.DataFrame, name: str, usual: str, notes: list[str]) -> str:
    """`62.80 ± 1.22 (3)`; the reason's number where it failed; "never run"; nothing where there is no such cell."""
    metric = spec.metrics[name]
    found = mine[mine[name].notna()] if name in mine else mine.head(0)
    if len(found):
        protocol = found["protocol"].iloc[0]
        other = f" {protocol}" if usual and protocol != usual and "evaluator" not in spec.across else ""
        return (_of_cell(found.iloc[0], name, metric) if metric.of_cell else _of_students(found[name], metric)) + other
    if name != next(iter(spec.metrics)):
        return ""
    failed = mine[mine["state"] == "failed"]
    if len(failed):
        note = str(failed["reason"].iloc[0])
        said = [text.partition("] ")[2] for text in notes]
        if note not in said:
            notes.append(f"[{len(notes) + 1}] {note}")
            said.append(note)
        return f"failed [{said.index(note) + 1}]"
    return "never run" if (mine["state"] == "never run").any() else ""


def _of_students(values: pd.Series[Any], metric: Metric) -> str:
    values = values.astype(float)
    deviation = f" ± {_number(values.std(ddof=1), metric)}" if len(values) > 1 else ""
    return f"{_number(values.mean(), metric)}{deviation} ({len(values)})"


def _of_cell(line: pd.Series[Any], name: str, metric: Metric) -> str:
    text = _number(line[name], metric)
    if f"{name}_n" in line:
        text += f" ± {_number(line[f'{name}_deviation'], metric)} ({line[f'{name}_n']:.0f})"
    note = line.get(f"{name}_note", "")
    return f"{text} ({note})" if note else text


def _beside(mine: pd.DataFrame, name: str, head: str) -> dict[str, str]:
    """The published column, and the difference where the setting is the paper's."""
    theirs = f"published_{name}"
    if theirs not in mine or mine[theirs].dropna().empty:
        return {}
    value, error = mine[theirs].iloc[0], mine.get(f"{theirs}_error", pd.Series([None])).iloc[0]
    shown = {f"{head}{PUBLISHED}": _plain(value) + ("" if pd.isna(error) else f" ± {_plain(error)}")}
    measured = mine[mine["state"] == "measured"]
    if len(measured) and (measured["differs"] == "").all() and not isinstance(value, str):
        shown[f"{head}{DIFFERENCE}"] = f"{measured[name].mean() - value:+.2f}"
    return shown


def _number(value: float | str, metric: Metric) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.3g}" if metric.digits is None else f"{value:.{metric.digits}f}"


def _plain(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.10g}"


def _source(theirs: pd.DataFrame) -> str:
    kinds = {f"{row['error_kind']} over {row['n']}" for row in theirs.dropna(subset=["error", "n"]).to_dict("records")}
    sources = ", ".join(dict.fromkeys(str(source) for source in theirs["source"]))
    return f"published: {sources}" + (f" (± {', '.join(sorted(kinds))})" if kinds else "")
