"""Lays out a table's tidy frame as text: one block per setting, with published numbers in separate columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import Any

import pandas as pd
from tabulate import tabulate

from ddbench.api.table import Metric, TableSpec
from ddbench.core.text_layout import GAP, divide_columns, fill, terminal_width
from ddbench.core.text_layout import format_table as format_columns
from ddbench.results import published, significance
from ddbench.results.frames import rows_of
from ddbench.results.pooling import Pooled, pool
from ddbench.results.text import frame_text
from ddbench.tables.published_columns import published_rows
from ddbench.tables.rows import BLOCK_COLUMNS, Row

STYLES = {"markdown": "github", "latex": "latex_booktabs", "html": "html"}
BOLD = {"latex": r"\\textbf{\1}", "html": r"<b>\1</b>"}
BOLD_START, BOLD_END = "\ue000", "\ue001"
"""Characters around the bold part of a cell, which no style of `tabulate` escapes."""
BEST = (
    "bold: the highest number of its column, and those that t-tests with Holm's correction do not distinguish from it "
    f"at {100 * significance.LEVEL:g} %. Numbers that cannot be tested are not marked"
)
PUBLISHED, DIFFERENCE = " published", " difference"
"""Ends of the names of columns with published numbers and with differences."""

ColumnKey = tuple[Any, ...]
"""Values of the fields `TableSpec.columns`."""


@dataclass
class TextBlock:
    """The part of a table with one setting.

    Attributes:
        heading: The setting.
        cells: The cells as text.
        notes: Notes below the block.
        sources: The rows of the tidy frame behind each measured number, by row and column of `cells`. Each has the text
            of its own number, which is empty if only several rows together have one.
        compared: The results behind the numbers of each column whose best number is marked, by column and row.
    """

    heading: str
    cells: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    sources: dict[tuple[str, str], list[tuple[Row, str]]] = field(default_factory=dict)
    compared: dict[str, dict[str, list[significance.Result]]] = field(default_factory=dict)

    @cached_property
    def best(self) -> set[tuple[str, str]]:
        """The cells to print in bold, by row and column of `cells`.

        A column has none if its best number can be tested against no other, e.g. if each is from one student.
        """
        columns = self.compared.items()
        return {(row, column) for column, groups in columns for row in significance.best_of(groups, need_test=True)}


def format_table(spec: TableSpec, frame: pd.DataFrame, form: str) -> str:
    """Formats a table.

    Args:
        spec: The table.
        frame: Its tidy frame.
        form: "text", "markdown", "latex" or "html": blocks. "csv" or "json": the tidy frame.
    """
    if form in ("csv", "json"):
        return frame_text(frame, form)
    return "\n\n".join(_format_block(form, block) for block in text_blocks(spec, frame))


def _format_block(form: str, block: TextBlock) -> str:
    cells = block.cells.map(_markdown) if form == "markdown" else block.cells.copy()
    # The name of a folder can hold line ends, which would end a comment of LaTeX.
    heading, *notes = (" ".join(line.splitlines()) for line in (block.heading, *block.notes))
    headers = [_header(str(name)) for name in cells]
    if form == "text":
        width = terminal_width()
        wrapped = [fill(line, width) for line in notes]
        title = fill(heading, width)
        return "\n".join([title, "\n\n".join(_text_tables(headers, cells, width)), *wrapped])
    start, end = ("**", "**") if form == "markdown" else (BOLD_START, BOLD_END)

    def marked(text: str) -> str:
        """Marks the number of a cell and its deviation."""
        return re.sub(r"^\S+( ± \S+)?", rf"{start}\g<0>{end}", text)

    for column in cells.columns[1:]:
        texts = zip(block.cells.iloc[:, 0], cells[column], strict=True)
        cells[column] = [marked(text) if (label, column) in block.best else text for label, text in texts]
    if block.best:
        notes.insert(0, BEST)
    body = tabulate(cells.to_numpy().tolist(), headers=headers, tablefmt=STYLES[form], disable_numparse=True)
    if form in BOLD:
        body = re.sub(f"{BOLD_START}(.*?){BOLD_END}", BOLD[form], body)
    if form == "latex":
        comments = [f"% {line}" for line in (heading, *notes)]
        return "\n".join([*comments, body.replace("±", r"$\pm$")])
    if form == "markdown":
        return "\n\n".join([f"**{_markdown(heading)}**", body, *map(_markdown, notes)])
    paragraphs = [f"<p>{escape(note)}</p>" for note in notes]
    return "\n".join([f"<h3>{escape(heading)}</h3>", body, *paragraphs])


def _text_tables(headers: Sequence[str], cells: pd.DataFrame, width: int) -> Iterator[str]:
    """Yields the table of a block. If it is too wide, its columns are divided into tables that repeat the row names.

    A measured number, the published one and their difference stay together.
    """
    lines = cells.to_numpy().tolist()
    sizes = [max(map(len, column)) for column in zip(headers, *lines, strict=True)]
    groups: list[list[int]] = []
    for number, name in enumerate(map(str, cells)):
        if number and name.endswith((PUBLISHED, DIFFERENCE)):
            groups[-1].append(number)
        elif number:
            groups.append([number])
    widths = [sum(sizes[number] + len(GAP) for number in group) - len(GAP) for group in groups]
    for part in divide_columns(widths, width - sizes[0] - len(GAP)) or [[]]:
        shown = [0, *(number for group in part for number in groups[group])]
        yield format_columns([headers[n] for n in shown], [[line[n] for n in shown] for line in lines], width)


def _markdown(text: str) -> str:
    """Escapes the characters that Markdown would read as markup. `[1]`, the number of a note, stays as it is."""
    return re.sub(r"[\\`*_<>&~|]|\](?=[(\[:])", r"\\\g<0>", text)


def _header(name: str) -> str:
    """Shortens `IPC 10 published` to `published`, because the column follows that of `IPC 10`."""
    return next((suffix.strip() for suffix in (PUBLISHED, DIFFERENCE) if name.endswith(suffix)), name)


def text_blocks(spec: TableSpec, frame: pd.DataFrame) -> Iterator[TextBlock]:
    """Yields a block for each setting of each dataset, and one for each dataset without a setting.

    Recipes with equal settings of data and teacher share a block. Its heading has the recipe of most measured cells.
    Cells of the other recipes are in separate rows, such as `wmdd, quick+tuned`.

    Args:
        spec: The table.
        frame: Its tidy frame.
    """
    published_numbers = published_rows(spec)
    for dataset in frame["dataset"].drop_duplicates():
        of_dataset = frame[frame["dataset"] == dataset]
        without_setting = of_dataset[of_dataset["image_size"].isna()]
        if len(without_setting) == len(of_dataset):
            yield _block(spec, dataset, without_setting, published_numbers)
        with_setting = of_dataset.drop(without_setting.index)
        groups = with_setting.groupby(list(BLOCK_COLUMNS), sort=False, dropna=False)
        parts = [_with_recipe_rows(part) for _, part in groups]
        headings = [_heading(part) for part in parts]
        for heading, part in zip(headings, parts, strict=True):
            # Different settings can have the same heading, e.g. after a recipe file was edited.
            digest = f" (setting {part['setting'].iloc[0]})" if headings.count(heading) > 1 else ""
            rows = pd.concat([part, without_setting])
            yield _block(spec, heading + digest, rows, published_numbers)


def _with_recipe_rows(part: pd.DataFrame) -> pd.DataFrame:
    """Returns a block's rows: those of its main recipe first, below each row the numbers of the other recipes."""
    measured = part.loc[part["state"] == "measured", "recipe"]
    counts = (measured if len(measured) else part["recipe"]).value_counts()
    recipe = min(map(str, counts.index), key=lambda name: (-counts[name], len(name), name))
    main = part[part["recipe"] == recipe]
    others = part[(part["recipe"] != recipe) & part["state"].isin(["measured", "failed"])]
    if others.empty:
        return main
    order = {row: number for number, row in enumerate(dict.fromkeys([*main["row"], *others["row"]]))}
    position = pd.concat([main, others])["row"].map(order)
    changes = recipe[len(recipe.partition(" --set ")[0]) :]  # in the heading
    labels = [f"{row}, {name.removesuffix(changes)}" for row, name in zip(others["row"], others["recipe"], strict=True)]
    rows = pd.concat([main, others.assign(row=labels)])
    return rows.iloc[position.argsort(kind="stable")]


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


def _block(spec: TableSpec, heading: str, part: pd.DataFrame, published_numbers: pd.DataFrame) -> TextBlock:
    members: dict[tuple[str, ColumnKey], list[Row]] = {}
    for row in rows_of(part):
        members.setdefault((row["row"], _column_key(spec, row)), []).append(row)
    keys = list(dict.fromkeys(key for _, key in members))
    if "ipc" in spec.columns:
        index = spec.columns.index("ipc")
        keys.sort(key=lambda key: (key[index] is None, key[index] or 0))
    formatter = _CellFormatter(spec, part, published_numbers)
    columns = [(key, metric, _column_title(spec, key, metric)) for key in keys for metric in spec.metrics]
    lines, sources = [], {}
    compared = {}
    for key, metric, title in columns:
        if spec.metrics[metric].mark_best:
            of_labels = {str(label): rows for (label, other), rows in members.items() if other == key}
            if groups := _results(of_labels, metric, formatter.usual):
                compared[title] = groups
    for label in dict.fromkeys(part["row"]):
        line = {spec.row: str(label)}
        for key, metric, title in columns:
            rows = members.get((label, key), [])
            line |= {title + suffix: text for suffix, text in formatter.texts(rows, metric).items()}
            sources[str(label), title] = formatter.sources(rows, metric)
        lines.append(line)
    cells = pd.DataFrame(lines)
    shown = [spec.row]
    for *_, title in columns:
        published_titles = [title + suffix for suffix in (PUBLISHED, DIFFERENCE) if (cells[title + suffix] != "").any()]
        shown += [title, *published_titles] if published_titles or (cells[title] != "").any() else []
    return TextBlock(heading, cells[shown], formatter.all_notes(), sources, compared)


def _results(
    cells: Mapping[str, list[Row]], metric: str, usual: Mapping[str, str]
) -> dict[str, list[significance.Result]]:
    """Returns the results of the rows of a column, of those with the usual protocol and student."""
    groups = {}
    for label, rows in cells.items():
        measured = [row for row in _with(rows, metric) if None not in (row["repeat"], row["student_seed"])]
        if measured and all(measured[0][name] == value for name, value in usual.items()):
            groups[label] = [_result(row, metric) for row in measured]
    return groups


def _result(row: Row, metric: str) -> significance.Result:
    seed = row.get("seed") or 0  # a plugin's own frame can lack it
    return significance.Result((seed + row["repeat"], seed + row["student_seed"]), row["set"], float(row[metric]))


def _column_key(spec: TableSpec, row: Row) -> ColumnKey:
    return tuple(row[name] for name in spec.columns)


def _column_title(spec: TableSpec, key: ColumnKey, metric: str) -> str:
    values = dict(zip(spec.columns, key, strict=True))
    words = [str(value) for name, value in values.items() if name != "ipc"]
    if "ipc" in values:
        words.insert(0, "all" if values["ipc"] is None else f"IPC {values['ipc']}")
    return " ".join([*words, spec.metrics[metric].title] if len(spec.metrics) > 1 or not words else words)


class _CellFormatter:
    """Formats the cells of one block, and collects the notes that they refer to.

    Args:
        spec: The table.
        part: The rows of the block.
        published_numbers: The published numbers of the table.
    """

    def __init__(self, spec: TableSpec, part: pd.DataFrame, published_numbers: pd.DataFrame) -> None:
        self.spec, self.rows = spec, set(part["row"])
        measured = part[part["state"] == "measured"]
        # The most frequent protocol and student. Cells mention only others.
        self.usual = {
            name: next(iter(measured[name].mode()), "")
            for name, column in (("protocol", "evaluator"), ("student", "student"))
            if column not in spec.columns
        }
        self.notes: list[str] = []
        self.published = published_numbers[published_numbers["dataset"].isin(part["dataset"])]
        names = [name for name in spec.metrics if f"published_{name}" in part]
        all_notes = [note for name in names for note in part.get(f"published_{name}_note", ()) if note]
        values = sum(int(part[f"published_{name}"].notna().sum()) for name in names)
        # A note on all published numbers is written once, with their source.
        self.common_note = all_notes[0] if len(all_notes) == values and len(set(all_notes)) == 1 else ""
        self.any_published = values > 0

    def texts(self, rows: list[Row], metric: str) -> dict[str, str]:
        """Returns the measured number, the published one and their difference, by the suffix of the column."""
        published_text, difference = "", ""
        column = f"published_{metric}"
        if _with(rows, column):
            row = rows[0]
            note = row.get(f"{column}_note") or ""
            published_text = self._published_number(row[column], row.get(f"{column}_error"), metric)
            published_text += f" [{self._note_number(note)}]" if note and note != self.common_note else ""
            measured = [row for row in rows if row["state"] == "measured"]
            comparable = self.spec.metrics[metric].show_difference and not published.is_quoted(note)
            if comparable and measured and all(row["differs"] == "" for row in measured):
                difference = f"{_pool(measured, metric).mean - row[column]:+.2f}"
                if departures := "; ".join(dict.fromkeys(filter(None, (row["departures"] for row in measured)))):
                    difference += f" [{self._note_number(f'measured with {departures}')}]"
        return {"": self._measured(rows, metric), PUBLISHED: published_text, DIFFERENCE: difference}

    def sources(self, rows: list[Row], metric: str) -> list[tuple[Row, str]]:
        """Returns the rows that have a value of a metric, each with the text of its value."""
        single = not self.spec.metrics[metric].per_cell
        return [(row, _number(row[metric], self.spec.metrics[metric]) if single else "") for row in _with(rows, metric)]

    def all_notes(self) -> list[str]:
        """Returns the numbered notes and the source of the published numbers."""
        numbered = [f"[{number}] {note}" for number, note in enumerate(self.notes, 1)]
        return [*numbered, self._source()] if self.any_published else numbered

    def _note_number(self, text: str) -> int:
        if text not in self.notes:
            self.notes.append(text)
        return self.notes.index(text) + 1

    def _measured(self, rows: list[Row], name: str) -> str:
        """`62.80 ± 1.22 (3 sets)`, `failed [1]`, `never run`, or nothing if there is no such cell."""
        words = []
        with_value = _with(rows, name)
        if with_value:
            metric, first = self.spec.metrics[name], with_value[0]
            words.append(
                _cell_number(first, name, metric) if metric.per_cell else _mean_number(with_value, name, metric)
            )
            notes = [] if metric.per_cell else [first.get("mixture"), first.get("caveat")]
            words[0] += "".join(f" [{self._note_number(note)}]" for note in notes if note)
            others = [first[column] for column, usual in self.usual.items() if usual and first[column] != usual]
            if others and not metric.per_cell:
                words[0] += f" {', '.join(others)}"
        elif any(row["state"] == "measured" for row in rows) and (note := rows[0].get(f"{name}_note")):
            words.append(f"– [{self._note_number(note)}]")
        if name == next(iter(self.spec.metrics)):
            reasons = dict.fromkeys(row["reason"] for row in rows if row["state"] == "failed")
            words += [f"failed [{self._note_number(reason)}]" for reason in reasons]
            if not words and any(row["state"] == "never run" for row in rows):
                words.append("never run")
        return ", ".join(words)

    def _published_number(self, value: float | str, error: float | None, name: str) -> str:
        if isinstance(value, str):
            return value
        rows = self.published[self.published["metric"] == (self.spec.metrics[name].published_as or name)]
        digits, error_digits = (max(map(_decimals, rows[column].dropna()), default=0) for column in ("value", "error"))
        return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{error_digits}f}")

    def _source(self) -> str:
        with_error = self.published.dropna(subset=["error", "n"]).to_dict("records")
        kinds = sorted({f"{row['error_kind']} over {row['n']}" for row in with_error})
        # The numbers of other papers are for single methods, which can be absent from the table.
        of_paper = self.published["source"].str.startswith(self.spec.reference.partition(",")[0])
        counted = self.published.loc[of_paper | self.published["ours"].isin(self.rows), "source"]
        sources = ", ".join(dict.fromkeys(map(str, counted))) or self.spec.reference
        note = f"; {self.common_note}" if self.common_note else ""
        return f"published: {sources}" + (f" (± {', '.join(kinds)})" if kinds else "") + note


def _with(rows: list[Row], name: str) -> list[Row]:
    """Returns the rows that have a value of a column."""
    return [row for row in rows if row.get(name) is not None]


def _pool(rows: list[Row], name: str) -> Pooled:
    return pool([float(row[name]) for row in rows], [row["set"] for row in rows])


def _mean_number(rows: list[Row], name: str, metric: Metric) -> str:
    pooled = _pool(rows, name)
    deviation = "" if pooled.deviation is None else f" ± {_number(pooled.deviation, metric)}"
    return f"{_number(pooled.mean, metric)}{deviation} ({pooled.count_text})"


def _cell_number(row: Row, name: str, metric: Metric) -> str:
    text = _number(row[name], metric)
    if f"{name}_n" in row:
        text += f" ± {_number(row[f'{name}_deviation'], metric)} ({row[f'{name}_n']:.0f})"
    note = row.get(f"{name}_note")
    return f"{text} ({note})" if note else text


def _number(value: float | str, metric: Metric) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.3g}" if metric.digits is None else f"{value:.{metric.digits}f}"


def _decimals(value: float) -> int:
    return len(f"{value:.10g}".partition(".")[2])
