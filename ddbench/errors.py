"""What a person did wrong, said in one line."""

from collections.abc import Iterable
from difflib import get_close_matches


class DDBenchError(Exception):
    """Bad input: one line that says what is wrong, where, and what to do. The command line exits with 2."""


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
