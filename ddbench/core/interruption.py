"""Graceful stop: on Ctrl-C, SIGTERM or a time limit, loops save a checkpoint and the program ends.

A loop that has a checkpoint calls `requested()` once per step. If it returns True, the loop saves its state and then
calls `raise_if_requested()`.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

GRACE_SECONDS = 10.0
"""Seconds between a stop request and the moment when `Stopped` is raised from the signal handler."""
EXIT_CODES = {"Ctrl-C": 130, "SIGTERM": 143, "the time limit": 124}
"""Exit code for each reason to stop: the shell's codes for the two signals, `timeout`'s code for the limit."""

_reason: str | None = None


class RunInterrupt(BaseException):
    """Base of the exceptions that end a run deliberately.

    It derives from BaseException, so that `except Exception` in a plugin does not swallow it.
    """


class Stopped(RunInterrupt):
    """The program ends because a stop was requested.

    Args:
        reason: A key of `EXIT_CODES`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def requested() -> bool:
    """Returns whether a stop was requested and the loop should save its state and end."""
    return _reason is not None


def raise_if_requested() -> None:
    """Ends the program if a stop was requested. Call it after the state is saved.

    Raises:
        Stopped: A stop was requested.
    """
    if _reason is not None:
        raise Stopped(_reason)


def cancel_deadline() -> None:
    """Cancels the grace period of a requested stop. Call it before a save, so that the save is not interrupted."""
    if requested():
        _set_timer(0)


@contextlib.contextmanager
def handle_signals(limit: float | None = None) -> Iterator[None]:
    """Context manager in whose block Ctrl-C, SIGTERM and a time limit request a stop.

    If the program does not end within `GRACE_SECONDS` after the request, or if Ctrl-C is pressed twice, `Stopped` is
    raised in the main thread, at the line that it executes. Outside the main thread the context manager does nothing.

    Args:
        limit: Seconds after which a stop is requested. None: no limit.

    Raises:
        Stopped: The grace period is over, or Ctrl-C was pressed twice.
    """
    global _reason
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    handlers = {signal.SIGINT: _on_signal, signal.SIGTERM: _on_signal, signal.SIGALRM: _on_alarm}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        _set_timer(limit or 0)
        yield
    finally:
        _set_timer(0)
        _reason = None
        for number, handler in previous.items():
            signal.signal(number, handler)


def _on_signal(number: int, _: FrameType | None) -> None:
    reason = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    if requested() and number == signal.SIGINT:
        raise Stopped(reason)
    _request_stop(reason)


def _on_alarm(_: int, __: FrameType | None) -> None:
    raise_if_requested()
    _request_stop("the time limit")


def _request_stop(reason: str) -> None:
    global _reason
    if _reason is None:
        _reason = reason
        hint = "; press Ctrl-C again to stop at once" if reason == "Ctrl-C" else ""
        # Do not use print(), which is not reentrant: the signal may interrupt a running print().
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"ddbench: {reason}: saving a checkpoint, then stopping{hint}\n")
        _set_timer(GRACE_SECONDS)


def _set_timer(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
