"""Events are values with defaults."""

import dataclasses

import pytest

from ddbench.core.events import Event


def test_an_event_has_defaults_and_cannot_change() -> None:
    event = Event("step", "teacher", "resnet18", 3, 10, {"loss": 1.5})
    assert (event.step, event.total, event.metrics["loss"], event.message) == (3, 10, 1.5, "")
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.step = 4  # type: ignore[misc]
    assert Event("note", "data").metrics == {}
    assert Event("note", "data") == Event("note", "data", "", 0, 0, {}, "")


def test_a_configuration_is_not_printed() -> None:
    assert "secret" not in repr(Event("started", "teacher", configuration={"secret": 1}))
