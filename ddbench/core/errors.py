"""Errors that are shown to the user as one line."""

from collections.abc import Iterable
from difflib import get_close_matches


class DDBenchError(Exception):
    """An error that the user can fix: one line with the problem, its location and the solution.

    The command line prints it without a traceback and exits with code 2. Characters that a terminal cannot print
    (control characters, escape sequences in a file name) are shown as escapes such as `\\x1b`, and the middle of a very
    long text is left out.

    Args:
        text: The message.
    """

    def __init__(self, text: str) -> None:
        line = " ".join(text.splitlines())
        printable = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
        super().__init__(printable if len(printable) <= 1000 else f"{printable[:600]} ... {printable[-300:]}")


class NotCached(DDBenchError):
    """An artifact is missing or damaged, and the command may not compute it (`--only-cached`)."""


class PluginError(DDBenchError):
    """Code of a plugin raised an exception. The message names the plugin; `__cause__` is the exception."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns the end of an error message about an unknown name.

    Args:
        name: The name that the user gave.
        known: The valid names.

    Returns:
        The closest valid name, or all of them if none is close, or an empty text if there are none.

    Example:
        >>> did_you_mean("wmd", ["random", "wmdd"])
        "; did you mean 'wmdd'?"
        >>> did_you_mean("x", ["random", "wmdd"])
        '; known: random, wmdd'
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> DDBenchError:
    """Returns the error for a name that is not registered.

    Args:
        kind: The kind of name, e.g. `method`.
        name: The name that the user gave.
        known: The valid names.

    Returns:
        The error; the caller raises it.

    Example:
        >>> print(unknown("method", "wmd", ["random", "wmdd"]))
        unknown method 'wmd'; did you mean 'wmdd'?
    """
    return DDBenchError(f"unknown {kind} '{name}'{did_you_mean(name, known)}")
