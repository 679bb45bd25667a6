"""DC and DSA from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ddbench.cli import main

CLASSES = 10

Command = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`ddbench run` on digits with the quickest settings: exit code, stdout, the lines on stderr."""

    def run(*arguments: str) -> tuple[int, str, list[str]]:
        folders = ("--cache-dir", str(tmp_path / "cache"), "--results-dir", str(tmp_path / "results"))
        quickest = ("--recipe", "smoke", "--device", "cpu", "--evaluator", "hard")
        monkeypatch.setattr(sys, "argv", ["ddbench", "run", "--dataset", "digits", *quickest, *folders, *arguments])
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        assert isinstance(code, int)
        captured = capsys.readouterr()
        return code, captured.out, captured.err.splitlines()

    return run


@pytest.mark.parametrize("method", ["dc", "dsa"])
def test_a_run_from_the_command_line(command: Command, tmp_path: Path, method: str) -> None:
    code, out, errors = command("--method", method, "--ipc", "2")
    assert code == 0, errors
    assert f"{method}-digits-ipc2" in out
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "results" / "records").glob("*.json"))
    assert (record["method"], record["distilled_images"]) == (method, 20)
    (unit,) = (load_file(path) for path in (tmp_path / "cache" / "distill").glob("*.safetensors"))
    assert unit["labels"].tolist() == [label for label in range(CLASSES) for _ in range(2)]
    assert unit["images"].shape == (20, 3, 16, 16)
    assert not list((tmp_path / "cache" / "teacher").glob("*"))


def test_an_unknown_operation_is_refused_in_one_line(command: Command) -> None:
    code, _, errors = command("--method", "dsa", "--ipc", "1", "--set", "dsa.strategy=crop_fold")
    assert code == 2
    assert "strategy" in errors[-1]
    assert "'fold'" in errors[-1]
