"""Tables and facts in the width of a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddbench.core.text_layout import format_facts, format_rows, format_table, join_sections

WORDS = st.lists(st.text(alphabet="abcdef", min_size=1, max_size=9), min_size=1, max_size=12).map(" ".join)


@given(rows=st.lists(st.tuples(WORDS, WORDS), max_size=4), width=st.integers(30, 90))
def test_a_table_fits_and_loses_no_word(rows: list[tuple[str, str]], width: int) -> None:
    lines = format_table(("first", "second"), rows, width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)
    assert set(lines[1]) <= {"-", " "}
    split = len(lines[1].split()[0]) + 2
    for column, cut in enumerate((slice(None, split), slice(split, None))):
        words = " ".join(line[cut] for line in lines[2:]).split()
        assert words == " ".join(row[column] for row in rows).split()


def test_facts_without_a_value_are_left_out() -> None:
    text = format_facts([("name", "digits"), ("about", ""), ("classes", "ten " * 12)], 30)
    assert text.splitlines()[0] == "name     digits"
    assert "about" not in text
    assert all(line.startswith(" " * 9) for line in text.splitlines()[2:])


def test_sections() -> None:
    assert join_sections("a", "", "b") == "a\n\nb"
    assert join_sections() == ""


ROWS = [{"method": name, "dataset": "digits", "note": "", "top-1": "61.05"} for name in ("wmdd", "random")]


def test_rows_that_fit_are_one_table() -> None:
    heading, *_ = format_rows(ROWS, ["method"], width=40).splitlines()
    assert heading.split() == ["method", "dataset", "note", "top-1"]


def test_columns_with_one_value_leave_a_table_that_is_too_wide() -> None:
    lines = format_rows(ROWS, ["method"], width=27).splitlines()
    assert lines[:2] == ["dataset digits, top-1 61.05", ""]
    assert [line.strip() for line in lines[2:]] == ["method", "------", "wmdd", "random"]
    assert max(map(len, lines)) <= 27


def test_columns_that_are_always_shown_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "27")
    assert format_rows(ROWS, ["method", "top-1"]).splitlines()[2].split() == ["method", "top-1"]


def test_a_number_is_not_divided() -> None:
    lines = format_table(("method", "top-1"), [("random images", "62.80 ± 1.23")], 22).splitlines()
    assert any(line.endswith("62.80 ± 1.23") for line in lines)
    assert max(map(len, lines)) <= 22


def test_rows_that_are_too_wide_are_divided_into_tables_that_repeat_the_first_column() -> None:
    rows = [{"name": f"n{number}", **{c: f"{number}{c}" * 3 for c in "abc"}} for number in range(2)]
    tables = format_rows(rows, [], width=20).split("\n\n")
    assert [table.split()[:3] for table in tables] == [["name", "a", "b"], ["name", "c", "----"]]
    assert all("n1" in table and max(map(len, table.splitlines())) <= 20 for table in tables)
    # Equal names are told apart by the number of the row.
    tables = format_rows([{**row, "name": "n"} for row in rows], ["name"], width=20).split("\n\n")
    assert [line.split()[0] for line in tables[1].splitlines()] == ["row", "---", "1", "2"]
