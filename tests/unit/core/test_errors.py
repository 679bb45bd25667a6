"""Errors are one printable line of bounded length; unknown names get a suggestion."""

import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from ddbench.core.errors import DDBenchError, PluginError, did_you_mean, exception_line, unknown
from ddbench.core.files import atomic_write


def test_an_error_is_one_line() -> None:
    assert str(DDBenchError("a\nb\r\nc")) == "a b c"


def test_control_characters_are_escaped() -> None:
    text = str(DDBenchError("name \x1b[2J\x07 é"))
    assert text == "name \\x1b[2J\\x07 é"
    assert text.isprintable()
    assert str(DDBenchError(os.fsdecode(b"caf\xe9"))) == "caf\\xe9"


def test_a_long_text_loses_its_middle() -> None:
    text = str(DDBenchError("a" * 2000 + "b" * 2000))
    assert text == "a" * 600 + " ... " + "b" * 300
    assert str(DDBenchError("c" * 1000)) == "c" * 1000


def raised(function: Callable[[], object]) -> Exception:
    """The exception that a library raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 (each library has its own type)
        function()
    return caught.value


def names_a_function() -> None:
    raise ValueError(f"cannot call {(lambda: None)}, {names_a_function} of {Path}")


def unpicklable() -> None:
    torch.save(lambda: None, io.BytesIO())


@pytest.mark.parametrize(
    "function",
    [
        lambda: Image.open(io.BytesIO(b"text")),
        lambda: yaml.safe_load("[1, 2"),
        lambda: json.dumps(object()),
        lambda: json.dumps({"image": Image.new("RGB", (2, 2))}),
        lambda: torch.zeros(2).add_(Image),  # type: ignore[arg-type]
        lambda: torch.empty(2**55),
        lambda: math.sqrt(object()),  # type: ignore[arg-type]
        lambda: {}[Image.new("RGB", (2, 2))],  # type: ignore[index]
        lambda: len(iter([])),  # type: ignore[arg-type]
        unpicklable,
        names_a_function,
    ],
)
def test_the_words_of_a_library_lose_addresses_and_internal_names(function: Callable[[], object]) -> None:
    error = raised(function)
    for line in (str(DDBenchError(f"it failed: {error}")), exception_line(error)):
        for internal in ("0x", "_io.", "<class", "PIL.", "<unicode", "alloc_cpu", ".cpp", "<function"):
            assert internal not in line
        assert not line.endswith(": ")


def test_a_temporary_path_of_a_write_is_the_path_of_the_file(tmp_path: Path) -> None:
    target = tmp_path / "a set.v1.png"

    def write() -> None:
        with atomic_write(target) as partial:
            raise ValueError(f"cannot encode {partial}")

    error = raised(write)
    assert ".partial" in str(error)
    assert exception_line(error) == f"ValueError: cannot encode {target}"


@pytest.mark.parametrize("kind", [DDBenchError, PluginError])
def test_every_error_is_shown_the_same_way(kind: type[DDBenchError]) -> None:
    assert issubclass(kind, DDBenchError)
    assert str(kind("a\nb")) == "a b"


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("wmd", ["random", "wmdd"], "; did you mean 'wmdd'?"),
        ("imagenete", ["imagenet-1k", "imagenette"], "; did you mean 'imagenette'?"),
        (
            "imagenet",
            ["imagenet-100", "imagenet-1k", "imagenette", "tiny-imagenet"],
            "; did you mean 'imagenette' or 'imagenet-1k' or 'imagenet-100'?",
        ),
        ("d7", ["d1", "d2", "d3", "d4", "d4"], "; did you mean 'd4' or 'd3' or 'd2'?"),
        ("zzz", ["b", "a"], "; known: a, b"),
        ("zzz", [], ""),
        (
            "zzz",
            [f"n{number:02d}" for number in range(40)],
            f"; known: {', '.join(f'n{i:02d}' for i in range(30))} and 10 more",
        ),
    ],
)
def test_a_suggestion(name: str, known: list[str], expected: str) -> None:
    assert did_you_mean(name, known) == expected
    assert str(unknown("method", name, known)) == f"unknown method '{name}'{expected}"
