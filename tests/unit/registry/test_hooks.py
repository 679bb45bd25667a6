"""Hook implementations of registered plugins."""

from types import SimpleNamespace

import pluggy
import pytest

from ddbench.api.hookspecs import hookimpl
from ddbench.registry.hooks import Hooks


@hookimpl
def observe(event: object) -> object:
    return event


def test_implementations_know_their_plugin_and_take_what_they_accept() -> None:
    hooks = Hooks()
    hooks.add(SimpleNamespace(ddbench_event=observe), "one", "dist-one")
    hooks.add(SimpleNamespace(ddbench_event=hookimpl(lambda: "nothing")), "two", "dist-two")
    actual = {each.plugin: each for each in hooks.implementations("ddbench_event")}
    assert {name: each.owner for name, each in actual.items()} == {"one": "dist-one", "two": "dist-two"}
    assert (actual["one"]("x"), actual["two"]("x")) == ("x", "nothing")
    (only,) = hooks.implementations("ddbench_event", "two")
    assert only.owner == "dist-two"
    hooks.remove("one")
    hooks.remove("never registered")
    assert [each.plugin for each in hooks.implementations("ddbench_event")] == ["two"]


def test_a_hook_with_other_arguments_is_refused() -> None:
    with pytest.raises(pluggy.PluginValidationError):
        Hooks().add(SimpleNamespace(ddbench_event=hookimpl(lambda strange: None)), "bad", "bad")
