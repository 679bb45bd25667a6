"""Exceptions of plugins name the plugin; stop requests and clear errors pass."""

import pytest

from ddbench.core.errors import DDBenchError, PluginError, exception_line
from ddbench.core.interruption import Stopped
from ddbench.registry.attribution import attribute_errors, print_warning


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def describe() -> str:
    return "method 'blur' of ddbench-blur"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("two\nlines"), "ValueError: two lines"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyError(), "KeyError"),
        (Mute(), "Mute"),
    ],
)
def test_every_other_exception_names_the_plugin(error: BaseException, text: str) -> None:
    with pytest.raises(PluginError) as caught, attribute_errors(describe):
        raise error
    assert str(caught.value) == f"{describe()}: {text}"
    assert caught.value.__cause__ is error
    assert exception_line(error) == text


@pytest.mark.parametrize("error", [DDBenchError("clear"), KeyboardInterrupt(), Stopped("Ctrl-C"), MemoryError("full")])
def test_these_pass_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, attribute_errors(lambda: pytest.fail("described")):
        raise error
    assert caught.value is error


def test_a_warning_is_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_warning("two\nlines \x1b[2J")
    assert capsys.readouterr().err == "ddbench: warning: two lines \\x1b[2J\n"
