"""The queue of events: what a worker sends, how often, and that it arrives as it was."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ddbench.core.events import Context, Event
from ddbench.execution import event_queue
from ddbench.execution.event_queue import EventQueue, EventSender, decode_event


def sender_to(queue: EventQueue) -> EventSender:
    """A sender to a queue of this process, which is called as an actor is."""
    sender = EventSender()
    sender.queue = SimpleNamespace(put=SimpleNamespace(remote=queue.put))
    return sender


def test_an_event_arrives_as_it_was_and_once() -> None:
    queue = EventQueue()
    send = sender_to(queue)
    context = Context("wmdd, digits, IPC 1", "wmdd-digits-ipc1-01234567", {"ipc": 1})
    events = [
        Event("started", "distill", "wmdd 1/2", part=1, context=context),
        Event("note", "teacher", message="größer"),
        Event("finished", "distill", "wmdd 1/2", metrics={"loss": 0.5}),
    ]
    for event in events:
        send(event)
    send(Event("cached", "data"))
    assert [decode_event(payload, {context.record: context}) for payload in queue.take()] == events
    assert queue.take() == []
    send(events[0])
    (payload,) = queue.take()
    assert "digits, IPC 1" not in payload  # the driver knows the cells
    assert decode_event(payload, {}).context is None


def test_steps_are_sent_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.5, 10.999, 11.0, 12.5])
    monkeypatch.setattr(event_queue.time, "monotonic", lambda: next(clock))
    queue = EventQueue()
    send = sender_to(queue)
    for step in range(5):
        send(Event("step", "distill", step=step, total=5))
    assert [decode_event(payload, {}).step for payload in queue.take()] == [0, 3, 4]
