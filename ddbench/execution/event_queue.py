"""Events on their way from the workers to the one display: an actor on the driver's node. Imports no torch."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

from ddbench.core.events import Event

STEP_SECONDS = 1.0
"""Seconds between two steps that one worker tells of."""


class EventQueue:
    """Holds what the workers said until the driver asks."""

    def __init__(self) -> None:
        self._letters: list[str] = []

    def post(self, letter: str) -> None:
        """An event as JSON."""
        self._letters.append(letter)

    def take(self) -> list[str]:
        """All since the last time."""
        letters, self._letters = self._letters, []
        return letters


class EventSender:
    """A worker's end: an observer that posts events, of steps one a second. What was cached is told by the driver."""

    def __init__(self) -> None:
        self.mailbox: Any = None
        self._last_step = 0.0

    def __call__(self, event: Event) -> None:
        """Posts the event and waits for nobody."""
        if event.kind == "cached":
            return
        if event.kind == "step":
            now = time.monotonic()
            if now - self._last_step < STEP_SECONDS:
                return
            self._last_step = now
        self.mailbox.post.remote(json.dumps(asdict(event)))


def decode_event(letter: str) -> Event:
    """What was posted."""
    return Event(**json.loads(letter))
