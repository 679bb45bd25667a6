"""A table's tidy frame as blocks to read: one a setting, rows by cell, published numbers in columns of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from tabulate import tabulate

from ddbench.api.table import Metric, TableSpec
from ddbench.results.text import frame_text
from ddbench.tables.filling import published_rows
from ddbench.tables.lines import SETTING_COLUMNS

STYLES = {"text": "simple", "markdown": "github", "latex": "latex_booktabs", "html": "html"}
PUBLISHED, DIFFERENCE = " published", " difference"
QUOTED = ("reported elsewhere", "replicated")
"""How the notes begin of published numbers that the paper has not measured under its own conditions."""

Column = tuple[Any, ...]
"""What stands over a column: what is across."""


@dataclass
class TextBlock:
    """One setting's part of a table: a heading, cells as text, and notes below."""

    heading: str
    cells: pd.DataFrame
    notes: list[str] = field(default_factory=list)


def format_table(spec: TableSpec, frame: pd.DataFrame, form: str) -> str:
    """The frame as text, markdown, latex, html, csv or json: the last two are the tidy frame, the others its blocks."""
    if form in ("csv", "json"):
        return frame_text(frame, form)
    return "\n\n".join(_dressed(form, block) for block in text_blocks(spec, frame))


def _dressed(form: str, block: TextBlock) -> str:
    cells = block.cells.map(lambda text: text.replace("|", r"\|")) if form == "markdown" else block.cells
    heads = [_head(str(head)) for head in cells]
    body = tabulate(cells.to_numpy().tolist(), headers=heads, tablefmt=STYLES[form], disable_numparse=True)
    if form == "latex":
        above = [f"% {line}" for line in (block.heading, *block.notes)]
        return "\n".join([*above, body.replace("±", r"$\pm$")])
    if form == "html":
        from html import escape

        below = [f"<p>{escape(note)}</p>" for note in block.notes]
        return "\n".join([f"<h3>{escape(block.heading)}</h3>", body, *below])
    if form == "markdown":
        return "\n\n".join([f"**{block.heading}**", body, *block.notes])
    return "\n".join([block.heading, body, *block.notes])


def _head(head: str) -> str:
    """A published column stands beside its own, and need not say again of what it is."""
    return next((of.strip() for of in (PUBLISHED, DIFFERENCE) if head.endswith(of)), head)


def text_blocks(spec: TableSpec, frame: pd.DataFrame) -> Iterator[TextBlock]:
    """A block for every setting of every dataset, and one for a dataset of which nothing is known but cells."""
    for dataset in frame["dataset"].drop_duplicates():
        mine = frame[frame["dataset"] == dataset]
        loose = mine[mine["image_size"].isna()]
        if len(loose) == len(mine):
            yield _block(spec, dataset, loose)
        parts = [part for _, part in mine.drop(loose.index).groupby(list(SETTING_COLUMNS), sort=False, dropna=False)]
        headings = [_heading(part) for part in parts]
        for heading, part in zip(headings, parts, strict=True):
            # Of the same words but not the same setting, e.g. by a recipe of the same name with other values.
            which = f" (setting {part['setting'].iloc[0]})" if headings.count(heading) > 1 else ""
            yield _block(spec, heading + which, pd.concat([part, loose]).sort_index())


def _heading(part: pd.DataFrame) -> str:
    first = part.iloc[0]
    classes = "" if pd.isna(first["classes"]) else f"{first['classes']:.0f} classes"
    words = [first["dataset"], classes, f"{first['image_size']:.0f} px", f"recipe {first['recipe']}"]
    words += [f"teacher {first['teacher']}", first["device"]]
    if first["measured_on"] != "validation images":
        words.append(f"measured on {first['measured_on']}")
    if first["numerics"]:
        words.append(f"other numerics: {first['numerics']}")
    return ", ".join(word for word in words if word)


def _block(spec: TableSpec, heading: str, part: pd.DataFrame) -> TextBlock:
    members: dict[tuple[str, Column], list[int]] = {}
    for number, each in enumerate(part.to_dict("records")):
        members.setdefault((each["row"], _column(spec, each)), []).append(number)
    columns = list(dict.fromkeys(column for _, column in members))
    if "ipc" in spec.columns:
        at = spec.columns.index("ipc")
        columns.sort(key=lambda column: (column[at] is None, column[at] or 0))
    protocols = part.loc[part["state"] == "measured", "protocol"].mode()
    writer = _Writer(spec, part, protocols.iloc[0] if len(protocols) else "")
    heads = [(column, name, _title(spec, column, name)) for column in columns for name in spec.metrics]
    lines = []
    for row in dict.fromkeys(part["row"]):
        line = {spec.row: str(row)}
        for column, name, head in heads:
            mine = part.iloc[members.get((row, column), [])]
            line |= {head + of: text for of, text in writer.texts(mine, name).items()}
        lines.append(line)
    cells = pd.DataFrame(lines)
    order = [spec.row]
    for *_, head in heads:
        found = [head + of for of in (PUBLISHED, DIFFERENCE) if (cells[head + of] != "").any()]
        order += [head, *found] if found or (cells[head] != "").any() else []
    return TextBlock(heading, cells[order], writer.all_notes())


def _column(spec: TableSpec, row: Mapping[Any, Any]) -> Column:
    return tuple(_ipc(row["ipc"]) if name == "ipc" else row[name] for name in spec.columns)


def _ipc(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)


def _title(spec: TableSpec, column: Column, name: str) -> str:
    over = dict(zip(spec.columns, column, strict=True))
    words = [str(value) for across, value in over.items() if across != "ipc"]
    if "ipc" in over:
        words.insert(0, "all" if over["ipc"] is None else f"IPC {over['ipc']}")
    return " ".join([*words, spec.metrics[name].title] if len(spec.metrics) > 1 or not words else words)


class _Writer:
    """Writes the cells of one block, and keeps the notes that they refer to."""

    def __init__(self, spec: TableSpec, part: pd.DataFrame, usual: str) -> None:
        self.spec, self.usual = spec, usual
        self.notes: list[str] = []
        theirs = published_rows(spec)
        self.theirs = theirs[theirs["dataset"].isin(part["dataset"])]
        remarks = [part[f"published_{name}_note"] for name in spec.metrics if f"published_{name}_note" in part]
        said = dict.fromkeys(note for notes in remarks for note in notes if note)
        # What is said of every published number is said once, below.
        values = sum(
            int(part[f"published_{name}"].notna().sum()) for name in spec.metrics if f"published_{name}" in part
        )
        self.common = next(iter(said)) if len(said) == 1 and values == sum((n != "").sum() for n in remarks) else ""
        self.any_published = values > 0

    def texts(self, mine: pd.DataFrame, name: str) -> dict[str, str]:
        """What stands in a place: our number, the published one, and the difference where there is one."""
        value, published, difference = self._shown(mine, name), "", ""
        theirs = f"published_{name}"
        if theirs in mine and not mine[theirs].dropna().empty:
            line = mine.iloc[0]
            note = line.get(f"{theirs}_note", "")
            published = self._published(line[theirs], line.get(f"{theirs}_error"), name)
            published += f" [{self._note(note)}]" if note and note != self.common else ""
            measured = mine[mine["state"] == "measured"]
            its_own = self.spec.metrics[name].show_difference and not str(note).startswith(QUOTED)
            if its_own and len(measured) and (measured["differs"] == "").all():
                difference = f"{measured[name].mean() - line[theirs]:+.2f}"
        return {"": value, PUBLISHED: published, DIFFERENCE: difference}

    def all_notes(self) -> list[str]:
        """What the numbers in brackets mean, and where published numbers are from."""
        numbered = [f"[{number}] {note}" for number, note in enumerate(self.notes, 1)]
        return [*numbered, self._source()] if self.any_published else numbered

    def _note(self, text: str) -> int:
        if text not in self.notes:
            self.notes.append(text)
        return self.notes.index(text) + 1

    def _shown(self, mine: pd.DataFrame, name: str) -> str:
        """`62.80 ± 1.22 (3)`, what failed with a note, "never run"; nothing where there is no such cell."""
        words = []
        found = mine[mine[name].notna()] if name in mine else mine.head(0)
        if len(found):
            metric, protocol = self.spec.metrics[name], found["protocol"].iloc[0]
            words.append(
                _of_cell(found.iloc[0], name, metric) if metric.per_cell else _of_students(found[name], metric)
            )
            if self.usual and protocol != self.usual and "evaluator" not in self.spec.columns:
                words[0] += f" {protocol}"
        if name == next(iter(self.spec.metrics)):
            failed = mine.loc[mine["state"] == "failed", "reason"].drop_duplicates()
            words += [f"failed [{self._note(reason)}]" for reason in failed]
            if not words and (mine["state"] == "never run").any():
                words.append("never run")
        return ", ".join(words)

    def _published(self, value: float | str, error: float | None, name: str) -> str:
        if isinstance(value, str):
            return value
        own = self.theirs[self.theirs["metric"] == (self.spec.metrics[name].published_as or name)]
        digits, of_error = (max(map(_decimals, own[column].dropna()), default=0) for column in ("value", "error"))
        return f"{value:.{digits}f}" + ("" if error is None or pd.isna(error) else f" ± {error:.{of_error}f}")

    def _source(self) -> str:
        known = self.theirs.dropna(subset=["error", "n"]).to_dict("records")
        kinds = sorted({f"{row['error_kind']} over {row['n']}" for row in known})
        sources = ", ".join(dict.fromkeys(map(str, self.theirs["source"]))) or self.spec.reference
        remark = f"; {self.common}" if self.common else ""
        return f"published: {sources}" + (f" (± {', '.join(kinds)})" if kinds else "") + remark


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


def _number(value: float | str, metric: Metric) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.3g}" if metric.digits is None else f"{value:.{metric.digits}f}"


def _decimals(value: float) -> int:
    return len(f"{value:.10g}".partition(".")[2])
