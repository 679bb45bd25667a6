"""What the second process answers: success, a class that it cannot import, or the traceback of a fault."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ddbench.config.experiment import Experiment
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.testing import subprocess_runner
from ddbench.testing.subprocess_runner import NOT_IMPORTABLE, _handle


def note_name(experiment: Experiment, root: Path) -> None:
    (root / experiment.method_name).write_text(json.dumps(experiment.model_dump(mode="json")))


def fail(experiment: Experiment, root: Path) -> None:
    raise KeyError("no such thing")


@pytest.fixture
def request_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A request as `run_in_subprocess` writes it, that finds the functions of this module."""
    functions = {"note_name": note_name, "fail": fail}
    find = subprocess_runner._find
    monkeypatch.setattr(
        subprocess_runner, "_find", lambda address: functions[address[1]] if address[0] == "here" else find(address)
    )
    (experiment,) = experiments(
        Request(("random",), ("digits",), (1,), recipes=("smoke",), device="cpu"), PluginRegistry()
    )
    classes = [[type(one).__module__, type(one).__qualname__] for one in (experiment.method, experiment.evaluator)]
    return {
        **{"path": sys.path, "threads": torch.get_num_threads(), "build": ["here", "note_name"], "classes": classes},
        **{"experiment": experiment.model_dump(mode="json"), "root": str(tmp_path)},
    }


def test_the_function_gets_the_experiment_whole(request_of: dict[str, Any], tmp_path: Path) -> None:
    assert _handle(json.dumps(request_of)) == ""
    assert json.loads((tmp_path / "random").read_text()) == request_of["experiment"]


@pytest.mark.parametrize("address", [["no_such_module", "Random"], ["ddbench.methods.random", "NoSuchClass"]])
def test_a_class_that_cannot_be_imported_is_no_fault(request_of: dict[str, Any], address: list[str]) -> None:
    request_of["classes"][0] = address
    assert _handle(json.dumps(request_of)) == NOT_IMPORTABLE


def test_a_fault_is_its_traceback(request_of: dict[str, Any]) -> None:
    request_of["build"] = ["here", "fail"]
    text = _handle(json.dumps(request_of))
    assert text.startswith("Traceback ")
    assert text.endswith("KeyError: 'no such thing'\n")
