"""Events are values with defaults."""

import dataclasses

import pytest

from ddbench.core.events import Context, Event


def test_an_event_has_defaults_and_cannot_change() -> None:
    event = Event("step", "teacher", "resnet18", 3, 10, {"loss": 1.5})
    assert (event.step, event.total, event.metrics["loss"], event.message) == (3, 10, 1.5, "")
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.step = 4  # type: ignore[misc]
    assert Event("note", "data").metrics == {}
    assert Event("note", "data") == Event("note", "data", "", 0, 0, {}, "")


def test_an_event_has_the_cell_and_the_configuration_of_its_context() -> None:
    event = Event("started", "teacher", context=Context("random, digits", "random-digits-ipc1-01234567", {"secret": 1}))
    assert (event.cell, event.configuration) == ("random, digits", {"secret": 1})
    assert "secret" not in repr(event)
    assert (Event("note", "data").cell, Event("note", "data").configuration) == ("", None)
