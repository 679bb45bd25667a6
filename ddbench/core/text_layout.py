"""Plain-text layout for a terminal: tables, lists of facts, sections."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

MIN_COLUMN = 12
"""Characters below which no column of a table is narrowed."""
GAP = "  "
UNLIMITED = 10_000
"""Characters per line where there is no terminal."""
NO_BREAK = "\N{NO-BREAK SPACE}"


def terminal_width() -> int:
    """Returns the characters per line of the terminal, or of `COLUMNS`; without a terminal, `UNLIMITED`."""
    return shutil.get_terminal_size(fallback=(UNLIMITED, 24)).columns


def format_table(headers: Sequence[str], rows: Iterable[Sequence[str]], width: int) -> str:
    """Formats a table with wrapped cells.

    The widest columns are narrowed first. Words are broken only if the table does not fit otherwise, and there is no
    line break beside `±`. tabulate and rich.table would break words, such as `teacher.learning_rate=0.025`, in tables
    that fit without it.

    Args:
        headers: Titles of the columns.
        rows: Cells, one per column. A cell may hold several lines.
        width: Characters per line. The table is wider if it has too many columns.

    Returns:
        The lines of the table without trailing spaces.

    Example:
        >>> print(format_table(("name", "about"), [("cifar10", "ten classes of photographs")], width=24))
        name     about
        -------  ---------------
        cifar10  ten classes of
                 photographs
    """
    cells = [[_join_deviations(cell) for cell in row] for row in (headers, *rows)]
    columns = list(zip(*cells, strict=True))
    available = width - len(GAP) * (len(columns) - 1)
    widths = _column_widths([_longest(column) for column in columns], list(map(_longest_word, columns)), available)
    header, *body = (_format_row(row, widths).replace(NO_BREAK, " ") for row in cells)
    return "\n".join([header, GAP.join("-" * column for column in widths), *body])


def fill(text: str, width: int) -> str:
    """Wraps a text. There is no line break within a word or beside `±`.

    Args:
        text: One paragraph.
        width: Characters per line. A longer word is a line of its own.

    Returns:
        The lines.

    Example:
        >>> print(fill("a mean of three (± deviation)", width=20))
        a mean of three
        (± deviation)
    """
    joined = _join_deviations(text)
    return textwrap.fill(joined, width, break_on_hyphens=False, break_long_words=False).replace(NO_BREAK, " ")


def _join_deviations(text: str) -> str:
    return text.replace("± ", f"±{NO_BREAK}").replace(" ±", f"{NO_BREAK}±")


def _longest(column: Iterable[str]) -> int:
    return max(len(line) for cell in column for line in cell.split("\n"))


def _longest_word(column: Iterable[str]) -> int:
    return max(len(word) for cell in column for word in cell.replace("\n", " ").split(" "))


def divide_columns(widths: Sequence[int], available: int) -> list[list[int]]:
    """Divides the columns of a table that is too wide into parts that fit.

    Args:
        widths: Characters of each column.
        available: Characters per line. A column that is wider has a part of its own.

    Returns:
        The numbers of the columns in each part, in order.

    Example:
        >>> divide_columns([10, 10, 10], 24)
        [[0, 1], [2]]
    """
    parts: list[list[int]] = []
    used = 0
    for number, width in enumerate(widths):
        used += len(GAP) + width
        if not parts or used > available:
            parts.append([])
            used = width
        parts[-1].append(number)
    return parts


def format_rows(rows: Sequence[Mapping[str, str]], always: Iterable[str], width: int | None = None) -> str:
    """Formats rows as a table that fits.

    If it is too wide, columns with one value are written above it, as `name value`. If it is still too wide, the table
    is divided into several, each with the first column, or with numbers of the rows if the first column repeats values.

    Args:
        rows: Cells by the title of the column. All rows have the same columns.
        always: Titles of columns that stay in the table.
        width: Characters per line; default: `terminal_width`.

    Returns:
        The lines.

    Example:
        >>> print(format_rows([{"ipc": "1", "recipe": "quick"}, {"ipc": "10", "recipe": "quick"}], ["ipc"], width=10))
        recipe
        quick
        <BLANKLINE>
        ipc
        ---
        1
        10
    """
    width = width or terminal_width()
    names = list(rows[0])
    text = _format_columns(rows, names, UNLIMITED)
    if max(map(len, text.splitlines())) <= width:
        return text
    constant = [name for name in names if name not in always and len({row[name] for row in rows}) == 1]
    facts = ", ".join(f"{name} {rows[0][name]}" for name in constant if rows[0][name])
    first, *others = [name for name in names if name not in constant]
    minima = [_longest_word([name, *(row[name] for row in rows)]) for name in (first, *others)]
    parts = divide_columns(minima[1:], width - minima[0] - len(GAP)) or [[]]
    if len(parts) > 1 and len({row[first] for row in rows}) < len(rows):
        rows = [{"row": str(number), **row} for number, row in enumerate(rows, 1)]
        parts = divide_columns(minima, width - len("row") - len(GAP))
        first, others = "row", [first, *others]
    tables = [_format_columns(rows, [first, *(others[number] for number in part)], width) for part in parts]
    return join_sections(textwrap.fill(facts, width, break_on_hyphens=False), *tables)


def _format_columns(rows: Sequence[Mapping[str, str]], names: Sequence[str], width: int) -> str:
    return format_table(names, [[row[name] for name in names] for row in rows], width)


def _column_widths(natural: list[int], longest_words: list[int], available: int) -> list[int]:
    """Narrows the widest columns first, down to their longest words, then down to MIN_COLUMN."""
    widths = list(natural)
    for minima in (longest_words, [MIN_COLUMN] * len(widths)):
        while sum(widths) > available:
            narrowable = [column for column, minimum in enumerate(minima) if widths[column] > minimum]
            if not narrowable:
                break
            widths[max(narrowable, key=widths.__getitem__)] -= 1
    return widths


def _format_row(cells: Sequence[str], widths: Sequence[int]) -> str:
    wrapped = [
        [part for line in cell.split("\n") for part in _wrap(line, column)]
        for cell, column in zip(cells, widths, strict=True)
    ]
    lines = (
        GAP.join(f"{part:<{column}}" for part, column in zip(parts, widths, strict=True))
        for parts in zip_longest(*wrapped, fillvalue="")
    )
    return "\n".join(line.rstrip() for line in lines)


def _wrap(line: str, width: int) -> list[str]:
    return [line] if len(line) <= width else textwrap.wrap(line, width, break_on_hyphens=False)


def format_facts(facts: Iterable[tuple[str, str]], width: int) -> str:
    """Formats names and values in two columns.

    Args:
        facts: Names and values. Empty values are left out.
        width: Characters per line.

    Returns:
        The lines. Values are wrapped.

    Example:
        >>> print(format_facts([("name", "digits"), ("about", ""), ("classes", "10")], width=40))
        name     digits
        classes  10
    """
    shown = [(name, value) for name, value in facts if value]
    indent = max(len(name) for name, _ in shown) + len(GAP)
    wrapper = textwrap.TextWrapper(
        max(width, indent + MIN_COLUMN), subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False
    )
    return "\n".join(wrapper.fill(f"{name:<{indent}}{value}") for name, value in shown)


def join_sections(*sections: str) -> str:
    """Joins sections with an empty line between them.

    Args:
        sections: Texts. Empty ones are left out.

    Returns:
        The joined text.
    """
    return "\n\n".join(section for section in sections if section)
