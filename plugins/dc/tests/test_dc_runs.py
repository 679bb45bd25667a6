"""DC and DSA from the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file

if TYPE_CHECKING:
    from conftest import Shell

DIGITS = ("--dataset", "digits", "--evaluator", "hard")
CLASSES = 10


@pytest.mark.parametrize("method", ["dc", pytest.param("dsa", marks=pytest.mark.slow)])
def test_a_run_from_the_command_line(shell: Shell, method: str) -> None:
    outcome = shell.run(*DIGITS, "--method", method, "--ipc", "2")
    assert f"{method}-digits-ipc2" in outcome.out
    (record,) = (json.loads(path.read_text()) for path in (shell.results / "records").glob("*.json"))
    assert (record["method"], record["distilled_images"]) == (method, 20)
    (unit,) = (load_file(path) for path in (shell.cache / "distill").glob("*.safetensors"))
    assert unit["labels"].tolist() == [label for label in range(CLASSES) for _ in range(2)]
    assert unit["images"].shape == (20, 3, 8, 8)
    assert not list((shell.cache / "teacher").glob("*"))


def test_an_unknown_operation_is_refused_in_one_line(shell: Shell) -> None:
    outcome = shell("run", *DIGITS, "--method", "dsa", "--ipc", "1", "--set", "dsa.strategy=crop_fold")
    assert outcome.code == 2
    assert "strategy" in outcome.errors[-1]
    assert "'fold'" in outcome.errors[-1]
