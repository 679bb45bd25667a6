"""Shows progress on stderr: live bars on a terminal, a plain line every few seconds otherwise."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from ddbench.api.hookspecs import hookimpl
from ddbench.core.errors import message_line
from ddbench.core.events import PROGRESS_LINE_SECONDS, Event

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


WIDTH_WITH_BAR = 100
"""Characters from which a line has room for a bar."""
WIDTH_OF_COUNTS = 33
"""Characters of a line without title, bar and metrics: spinner, up to four-digit counts, elapsed time and ETA."""


class _Display(Protocol):
    def show(self, event: Event) -> None: ...

    def close(self) -> None: ...


_display: _Display | None = None
_verbosity: Literal["quiet", "normal", "verbose"] = "normal"


def set_verbosity(verbosity: Literal["quiet", "normal", "verbose"]) -> None:
    """Sets what is shown: notes alone (quiet), or a line for every event (verbose)."""
    global _verbosity
    close()
    _verbosity = verbosity


@hookimpl
def ddbench_event(event: Event) -> None:
    """Shows one event. It never raises, because a progress display must not end a run."""
    global _display
    if event.kind == "preview":  # the summary lists the pictures
        return
    with suppress(Exception):
        if _display is None:
            _display = _choose()
        _display.show(event)


def close() -> None:
    """Closes the live display, so that later output is printed below it. The next event opens a new one."""
    global _display
    with suppress(Exception):
        if _display is not None:
            _display.close()
    _display = None


def _choose() -> _Display:
    if _verbosity == "quiet":
        return QuietDisplay()
    if _verbosity == "verbose":
        return PlainDisplay(every=0.0)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        # A live display hides the cursor of the terminal, so it must be closed when the program ends.
        atexit.register(close)
        return RichDisplay()
    return PlainDisplay()


@dataclass
class _Clock:
    """Start time and speed of a running stage or unit, its last metrics and message; whether its start was shown."""

    start: float
    start_is_shown: bool = False
    first_step: int | None = None
    first_time: float = 0.0
    text: str = ""

    def eta(self, now: float, step: int, total: int) -> float | None:
        """Seconds left at the mean speed so far; None before the second step."""
        if self.first_step is None or step <= self.first_step or total <= 0:
            return None
        return (now - self.first_time) / (step - self.first_step) * (total - step)


class _Lines:
    """Turns events into lines, and limits frequent events (steps, units, classes) to one line every few seconds."""

    def __init__(self, every: float, now: Callable[[], float]) -> None:
        self._every = every
        self._now = now
        self._clocks: dict[tuple[str, str], _Clock] = {}
        self._last_time = float("-inf")
        self._last_stage = ""

    def line(self, event: Event, silent: tuple[str, ...] = ()) -> str | None:
        """The line of an event; None if the last line was too recent or the event is of a `silent` kind."""
        if event.kind == "cell":
            return message_line(event.message)
        now = self._now()
        clock = self._clock(event, now)
        is_shown = event.kind not in silent and self._is_due(event, clock, now)
        text = self._compose(event, clock, now) if is_shown else None
        if event.kind == "finished":
            del self._clocks[event.stage, event.unit]
        return text

    def _clock(self, event: Event, now: float) -> _Clock:
        key = (event.stage, event.unit)
        if event.kind in ("started", "resumed") or key not in self._clocks:
            self._clocks[key] = _Clock(now)
        clock = self._clocks[key]
        # The first step of a resumed run is not 0, so the speed is measured from its first step event.
        if clock.first_step is None and event.kind in ("started", "step"):
            clock.first_step, clock.first_time = event.step, now
        # A "finished" event often has no metrics. Its line then shows those of the last step.
        clock.text = _text(event) or clock.text
        return clock

    def _is_due(self, event: Event, clock: _Clock, now: float) -> bool:
        if event.kind in ("note", "resumed"):
            return True
        is_end = event.kind == "finished" and (clock.start_is_shown or now - clock.start >= self._every)
        if event.stage == self._last_stage and now - self._last_time < self._every and not is_end:
            return False
        clock.start_is_shown = event.kind == "started"
        self._last_time, self._last_stage = now, event.stage
        return True

    def _compose(self, event: Event, clock: _Clock, now: float) -> str:
        if event.kind == "finished":
            parts = [f"finished in {_duration(event.metrics.get('seconds', now - clock.start))}", clock.text]
        elif event.kind == "step":
            remaining = clock.eta(now, event.step, event.total)
            parts = [_steps(event), f"ETA {_duration(remaining)}" if remaining is not None else "", _text(event)]
        elif event.kind == "resumed":
            parts = [f"resumed at {_steps(event)}" if event.step else "resumed", _text(event)]
        else:
            parts = ["" if event.kind == "note" else event.kind, _text(event)]
        return message_line(f"{_title(event)}: {_join(parts)}")


class PlainDisplay:
    """Prints lines for a log file: a progress line every few seconds, and every note.

    Args:
        every: Minimum number of seconds between two progress lines of a stage.
        now: Clock in seconds.
    """

    def __init__(self, every: float = PROGRESS_LINE_SECONDS, now: Callable[[], float] = time.monotonic) -> None:
        self._lines = _Lines(every, now)

    def show(self, event: Event) -> None:
        """Prints the line of an event, unless the last line was too recent."""
        line = self._lines.line(event)
        if line is not None:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Does nothing: there is no live display."""


class QuietDisplay(PlainDisplay):
    """Prints every note, and nothing else."""

    def show(self, event: Event) -> None:
        """Prints the line of a note."""
        if event.kind == "note":
            super().show(event)


class RichDisplay:
    """Shows a bar for each running stage and unit, and prints a line for each finished one."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._lines = _Lines(PROGRESS_LINE_SECONDS, time.monotonic)

    def show(self, event: Event) -> None:
        """Opens, updates or closes the bar of an event."""
        line = self._lines.line(event, silent=("started", "step"))
        if line is not None:
            self._print(line)
        if event.kind in ("started", "resumed", "step"):
            task = self._task(event)
            self._open().update(task, completed=event.step, total=event.total or None, text=_text(event))
        elif event.kind == "finished":
            for stage, unit in list(self._tasks):
                if stage == event.stage and event.unit in ("", unit):
                    self._open().remove_task(self._tasks.pop((stage, unit)))
            if not self._tasks:
                self.close()

    def close(self) -> None:
        """Removes all bars and restores the terminal."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = None
        self._tasks.clear()

    def _open(self) -> Progress:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                ProgressColumn,
                SpinnerColumn,
                Task,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.table import Column
            from rich.text import Text

            class Metrics(ProgressColumn):
                """Metrics and message. It is the only column that rich may narrow, so the others stay complete."""

                def render(self, task: Task) -> Text:
                    return Text(task.fields["text"], no_wrap=True, overflow="ellipsis")

            console = Console(stderr=True)

            def fixed() -> Column:
                return Column(no_wrap=True)

            self._progress = Progress(
                SpinnerColumn(table_column=fixed()),
                TextColumn("{task.description}", markup=False),
                *([BarColumn(bar_width=24, table_column=fixed())] if console.width >= WIDTH_WITH_BAR else []),
                MofNCompleteColumn(table_column=fixed()),
                TimeElapsedColumn(table_column=fixed()),
                TextColumn("ETA"),
                TimeRemainingColumn(compact=True, table_column=fixed()),
                Metrics(),
                console=console,
                transient=True,
                # Otherwise rich redirects the results that are printed on stdout to stderr.
                redirect_stdout=False,
                refresh_per_second=4,
            )
            self._progress.start()
        return self._progress

    def _task(self, event: Event) -> TaskID:
        key = (event.stage, event.unit)
        if key not in self._tasks:
            display = self._open()
            title = _cut_middle(_title(event), display.console.width - WIDTH_OF_COUNTS)
            self._tasks[key] = display.add_task(title, total=event.total or None, text="")
        return self._tasks[key]

    def _print(self, line: str) -> None:
        if self._progress is not None:
            self._progress.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)


def _title(event: Event) -> str:
    return f"{event.stage} {event.unit}".strip()


def _cut_middle(text: str, longest: int) -> str:
    """Shortens a text to a length of at least 3.

    >>> _cut_middle("evaluate random IPC 10 seed 0", 20)
    'evaluate r…10 seed 0'
    """
    half = max(longest - 1, 2) // 2
    return text if len(text) <= longest else f"{text[: longest - 1 - half]}…{text[-half:]}"


def _steps(event: Event) -> str:
    return f"{event.counted} {event.step}/{event.total}" if event.total else f"{event.counted} {event.step}"


def _text(event: Event) -> str:
    """Returns metrics and message without `seconds`, which the line of a finished stage shows as a duration."""
    shown = (f"{name} {value:.4g}" for name, value in event.metrics.items() if name != "seconds")
    return _join([*shown, event.message])


def _join(parts: Iterable[str]) -> str:
    return ", ".join(part for part in parts if part)


def _duration(seconds: float) -> str:
    total = round(seconds)
    hours, minutes = total // 3600, total // 60 % 60
    return f"{hours}:{minutes:02d}:{total % 60:02d}" if hours else f"{minutes}:{total % 60:02d}"
