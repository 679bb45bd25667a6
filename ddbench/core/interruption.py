"""Stopping between two steps: Ctrl-C, SIGTERM and a time limit ask for it, loops save where they are and end.

A loop that has a checkpoint asks `requested()` once a step; where it says yes, it saves and calls `stop()`.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

PATIENCE = 10.0
"""Seconds that a loop has to answer before the program is stopped where it stands."""
CODES = {"Ctrl-C": 130, "SIGTERM": 143, "the time limit": 124}
"""Exit codes: the shell's for the two signals, timeout's for the limit."""

_reason: str | None = None


class RunInterrupt(BaseException):
    """Raised by ddbench through the code of others to end it there: nobody's fault; no `except Exception` holds it."""


class Stopped(RunInterrupt):
    """The program ends because it was asked to; `reason` is a key of CODES."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def requested() -> bool:
    """Whether the program shall stop at the next step that can be saved."""
    return _reason is not None


def raise_if_requested() -> None:
    """Ends the program where `requested`: what had to be saved is saved. Raises Stopped."""
    if _reason is not None:
        raise Stopped(_reason)


def cancel_deadline() -> None:
    """Patience ends here where a stop is `requested`: a loop is about to save, and saving is not cut short."""
    if requested():
        _alarm(0)


@contextlib.contextmanager
def handle_signals(limit: float | None = None) -> Iterator[None]:
    """Ctrl-C, SIGTERM and, with `limit` in seconds, the clock ask for a stop while the block runs.

    Whoever does not answer within PATIENCE seconds, or is asked by Ctrl-C twice, is stopped by Stopped where it stands.
    Outside the main thread nothing is listened to.
    """
    global _reason
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    handlers = {signal.SIGINT: _on_signal, signal.SIGTERM: _on_signal, signal.SIGALRM: _on_alarm}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        _alarm(limit or 0)
        yield
    finally:
        _alarm(0)
        _reason = None
        for number, handler in before.items():
            signal.signal(number, handler)


def _on_signal(number: int, _: FrameType | None) -> None:
    reason = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    if requested() and number == signal.SIGINT:
        raise Stopped(reason)
    _ask(reason)


def _on_alarm(_: int, __: FrameType | None) -> None:
    raise_if_requested()
    _ask("the time limit")


def _ask(reason: str) -> None:
    global _reason
    if _reason is None:
        _reason = reason
        more = "; Ctrl-C again stops at once" if reason == "Ctrl-C" else ""
        # Not print: a signal may come in the middle of another one.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"ddbench: {reason}: saving where it is{more}\n")
        _alarm(PATIENCE)


def _alarm(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
