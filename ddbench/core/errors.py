"""Errors that are shown to the user as one line."""

import re
from collections.abc import Callable, Iterable
from difflib import SequenceMatcher, get_close_matches

_INTERNAL: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    # The temporary path of an atomic_write.
    (r"\.([^/]{1,255})\.[0-9a-f]{8}-\d+-[0-9a-f]{8}\.partial/\1", r"\1"),
    # The representation of an object or a class.
    (
        r"<(?:class ')?((?:[^<>]|<locals>|<lambda>){1,300}?)(?: at 0x[0-9a-f]+|')>",
        lambda match: _without_modules(match[1]),
    ),
    (r"\bat 0x[0-9a-f]{6,}", ""),
    # PyYAML's name of its input.
    (r" in \"<(?:unicode|byte) string>\"", ""),
    # Positions in PyTorch's source code.
    (r"\[enforce fail at [^\]]{1,300}\](?: err == 0)?\.? ?", ""),
    (r" ?\(Triggered internally at [^()]{1,300}\)", ""),
    (r" ?Exception raised from .* \(most recent call first\):.*", ""),
)
"""What libraries write for their own developers, as patterns with replacements."""


def _without_modules(name: str) -> str:
    return re.sub(r"(?:[A-Za-z_]\w*\.)+(?=\w)", "", name)


class DDBenchError(Exception):
    """An error that the user can fix: one line with the problem, its location and the solution.

    The command line prints it without a traceback and exits with code 2.

    Args:
        text: The message. It is shown as `message_line` formats it.
        cause: What several errors with different messages have in common, e.g. a full disk.

    Attributes:
        cause: Errors of a grid with the same cause are shown once. Default: the message.
    """

    def __init__(self, text: str, cause: str = "") -> None:
        super().__init__(message_line(text))
        self.cause = cause or str(self)

    def _render_traceback_(self) -> list[str]:
        """Returns what IPython and Jupyter print instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class PluginError(DDBenchError):
    """Code of a plugin raised an exception. The message names the plugin; `__cause__` is the exception."""


def message_line(text: str) -> str:
    """Formats a text as one line that a terminal can print and a user can use.

    Characters that a terminal cannot print (control characters, escape sequences in a file name) become escapes such
    as `\\x1b`. Parts that libraries write for their own developers are left out: addresses in memory, module names of
    classes, temporary paths, positions in source code. The middle of a very long text is left out too.

    Args:
        text: A message, which may contain that of a library.

    Returns:
        One line of at most 1,000 characters.

    Example:
        >>> message_line("cannot identify image file <_io.BytesIO object at 0x7f98c0a1b2e0>")
        'cannot identify image file BytesIO object'
    """
    # Searching a text of megabytes would take minutes, and only its ends are shown.
    line = " ".join((text if len(text) <= 6000 else f"{text[:4000]} ... {text[-2000:]}").splitlines())
    for pattern, replacement in _INTERNAL:
        line = re.sub(pattern, replacement, line, flags=re.IGNORECASE)
    printable = "".join(letter if letter.isprintable() else escape(letter) for letter in line)
    return printable if len(printable) <= 1000 else f"{printable[:600]} ... {printable[-300:]}"


def escape(text: str) -> str:
    """Returns the escapes of characters. U+DC80 to U+DCFF stand for bytes of a file name that are not UTF-8.

    Args:
        text: The characters.

    Example:
        >>> print(escape("\\x1b\\udce9²"))
        \\x1b\\xe9\\xb2
    """
    return "".join(
        f"\\x{ord(letter) - 0xDC00:02x}" if "\udc80" <= letter <= "\udcff" else ascii(letter)[1:-1] for letter in text
    )


def exception_line(error: BaseException) -> str:
    """Returns the type and the message of an exception in one line. For a DDBenchError it is the message alone.

    Args:
        error: The exception.

    Returns:
        The line, as `message_line` formats it.

    Example:
        >>> exception_line(OSError("disk full")), exception_line(DDBenchError("no such file"))
        ('OSError: disk full', 'no such file')
    """
    try:
        text = " ".join(str(error).split())
    except Exception:  # the __str__ of a plugin's exception can fail too
        text = ""
    if isinstance(error, DDBenchError):
        return text
    return message_line(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def os_error_line(error: OSError, otherwise: str) -> str:
    """Returns the file of an OSError and the reason in one line.

    Args:
        error: The exception.
        otherwise: What is named if the exception has no file.

    Example:
        >>> os_error_line(OSError(5, "Input/output error", "pixels.bin"), "the cache")
        'pixels.bin: Input/output error'
    """
    return message_line(f"{error.filename or otherwise}: {error.strerror or error}")


MANY_NAMES = 30
"""The longest list of names that a message prints in full."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Returns the end of an error message about an unknown name.

    Args:
        name: The name that the user gave.
        known: The valid names.
        otherwise: The text if no name is close; default: the first `MANY_NAMES` names.

    Returns:
        The closest valid names (at most three, about equally close), or `otherwise`, or an empty text if there are no
        names.

    Example:
        >>> did_you_mean("wmd", ["random", "wmdd"])
        "; did you mean 'wmdd'?"
        >>> did_you_mean("imagenet", ["imagenet-1k", "imagenette", "svhn"])
        "; did you mean 'imagenette' or 'imagenet-1k'?"
        >>> did_you_mean("x", ["random", "wmdd"])
        '; known: random, wmdd'
    """
    names = sorted(set(known))
    if closest := get_close_matches(name, names, n=1, cutoff=0.5):
        similarity = SequenceMatcher(None, closest[0], name).ratio()
        close = get_close_matches(name, names, n=3, cutoff=max(0.5, similarity - 0.1))
        suggestions = "' or '".join(close)
        return f"; did you mean '{suggestions}'?"
    if otherwise or not names:
        return otherwise
    more = f" and {len(names) - MANY_NAMES} more" if len(names) > MANY_NAMES else ""
    return f"; known: {', '.join(names[:MANY_NAMES])}{more}"


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
