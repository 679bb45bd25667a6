"""Errors are one printable line of bounded length; unknown names get a suggestion."""

import pytest

from ddbench.core.errors import DDBenchError, NotCached, PluginError, did_you_mean, unknown


def test_an_error_is_one_line() -> None:
    assert str(DDBenchError("a\nb\r\nc")) == "a b c"


def test_control_characters_are_escaped() -> None:
    text = str(DDBenchError("name \x1b[2J\x07 é"))
    assert text == "name \\x1b[2J\\x07 é"
    assert text.isprintable()


def test_a_long_text_loses_its_middle() -> None:
    text = str(DDBenchError("a" * 2000 + "b" * 2000))
    assert text == "a" * 600 + " ... " + "b" * 300
    assert str(DDBenchError("c" * 1000)) == "c" * 1000


@pytest.mark.parametrize("kind", [NotCached, PluginError])
def test_every_error_is_shown_the_same_way(kind: type[DDBenchError]) -> None:
    assert issubclass(kind, DDBenchError)
    assert str(kind("a\nb")) == "a b"


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("wmd", ["random", "wmdd"], "; did you mean 'wmdd'?"),
        ("zzz", ["b", "a"], "; known: a, b"),
        ("zzz", [], ""),
    ],
)
def test_a_suggestion(name: str, known: list[str], expected: str) -> None:
    assert did_you_mean(name, known) == expected
    assert str(unknown("method", name, known)) == f"unknown method '{name}'{expected}"
