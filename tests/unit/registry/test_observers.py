"""Observers cannot change or end a run."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ddbench.api.hookspecs import hookimpl
from ddbench.registry.hooks import Hooks
from ddbench.registry.observers import Observers


def observers(function: Any, owner: str = "ddbench-watch") -> Observers:
    hooks = Hooks()
    hooks.add(SimpleNamespace(ddbench_event=hookimpl(function)), "watch", owner)
    return Observers(hooks)


def test_an_observer_that_raises_is_reported_once_and_silenced(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[object] = []

    def fail(event: object) -> None:
        calls.append(event)
        raise SystemExit("enough")

    watching = observers(fail)
    for number in range(3):
        watching.notify("ddbench_event", number)
    assert calls == [0]
    (line,) = capsys.readouterr().err.splitlines()
    assert "observer of ddbench-watch failed and is not called again: SystemExit: enough (in ddbench_event; " in line
    assert re.search(r"test_observers\.py, line \d+\)$", line)


def test_a_stop_request_passes() -> None:
    def stop(event: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        observers(stop).notify("ddbench_event", 1)


def test_global_state_is_restored_and_output_moved_with_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    def meddle(event: object) -> None:
        torch.manual_seed(3)
        print("a result?")

    before = torch.get_rng_state()
    watching = observers(meddle)
    for number in range(2):
        watching.notify("ddbench_event", number)
    assert torch.equal(before, torch.get_rng_state())
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("observer of ddbench-watch changed") == 1
    assert shown.err.count("printed to stdout") == 1
