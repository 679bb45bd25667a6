"""What a person did wrong, said in one line."""

from collections.abc import Iterable
from difflib import get_close_matches


class DDBenchError(Exception):
    """Bad input: one line that says what is wrong, where, and what to do. The command line exits with 2.

    What a terminal would not print (a line's end, an escape sequence in somebody's file name) is shown as `\\x1b`; of
    a text without end the middle is left out.
    """

    def __init__(self, text: str) -> None:
        line = " ".join(text.splitlines())
        shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
        super().__init__(shown if len(shown) <= 1000 else f"{shown[:600]} ... {shown[-300:]}")


class NotCached(DDBenchError):
    """An artifact that is not there, or not sound, where nothing may be computed (`--only-cached`)."""


class PluginError(DDBenchError):
    """What the code of a plugin raised, in a line that names the plugin's distribution; the cause is the exception."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Text that ends an "unknown name" line: the closest known name, else all of them.

    `name` is what was typed, `known` the valid names. Returns e.g. `; did you mean 'wmdd'?`.
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> DDBenchError:
    """The error for a name that is not registered, e.g. `unknown("method", "wmd", [...])`."""
    return DDBenchError(f"unknown {kind} '{name}'{did_you_mean(name, known)}")
