"""The queue of events between workers and driver: an actor on the driver's node. Imports no torch."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from ddbench.core.events import Context, Event

STEP_SECONDS = 1.0
"""Seconds between two step events of one worker."""


class EventQueue:
    """Holds the events of the workers until the driver takes them.

    `ray.util.queue.Queue` is not used, because it waits until each item is stored, and a worker must not wait.
    """

    def __init__(self) -> None:
        self._payloads: list[str] = []

    def put(self, payload: str) -> None:
        """Adds an event, as JSON."""
        self._payloads.append(payload)

    def take(self) -> list[str]:
        """Returns and removes all events."""
        payloads, self._payloads = self._payloads, []
        return payloads


class EventSender:
    """An observer in a worker that sends events to the queue. Step events are sent at most once per second.

    It does not send "cached" events, because the driver emits them. It sends the context of an event as the name of
    the record.
    """

    def __init__(self) -> None:
        self.queue: Any = None
        self._last_step = 0.0

    def __call__(self, event: Event) -> None:
        """Sends the event without waiting."""
        if event.kind == "cached":
            return
        if event.kind == "step":
            now = time.monotonic()
            if now - self._last_step < STEP_SECONDS:
                return
            self._last_step = now
        record = event.context.record if event.context else ""
        self.queue.put.remote(json.dumps({**asdict(replace(event, context=None)), "context": record}))


def decode_event(payload: str, contexts: Mapping[str, Context]) -> Event:
    """Returns the event of a payload.

    Args:
        payload: The event as JSON.
        contexts: The cells of the grid, by the names of their records.
    """
    fields = json.loads(payload)
    return Event(**{**fields, "context": contexts.get(fields["context"])})
