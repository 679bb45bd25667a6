"""The examples in the docstrings of the public classes are one plugin that works."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from ddbench.api import DatasetSpec, Distiller, Evaluator, TableSpec


def example(documented: type) -> str:
    """The source in the section `Example` of a docstring."""
    lines = inspect.cleandoc(documented.__doc__ or "").partition("Example:")[2].partition(":\n")[2].splitlines()
    code = []
    for line in lines:
        if line.strip() and not line.startswith(" " * 8):
            break
        code.append(line)
    return textwrap.dedent("\n".join(code))


@pytest.fixture
def environment(tmp_path: Path, install_plugin: Callable[[Path, str, str], None]) -> dict[str, str]:
    """The environment of a process in which the examples are installed as a plugin."""
    source = "\n".join(example(documented) for documented in (Distiller, Evaluator, DatasetSpec, TableSpec))
    install_plugin(tmp_path, "examples", source)
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


@pytest.mark.slow
def test_examples_run(environment: dict[str, str], tmp_path: Path) -> None:
    def ddbench(*arguments: str) -> str:
        folders = ("--cache-dir", str(tmp_path / "cache"), "--results-dir", str(tmp_path / "results"))
        command = [sys.executable, "-m", "ddbench", *arguments, *folders, "--recipe", "smoke", "--device", "cpu"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    names = ("--method", "blur", "--dataset", "noise", "--evaluator", "plain", "--student", "convnet-d2")
    assert "plain" in ddbench("run", *names, "--ipc", "2", "--set", "evaluator.steps=2", "--image-size", "16")
    table = ("table", "temperature", "--methods", "blur", "--dataset", "noise", "--ipc", "2")
    assert "blur, T = 20" in ddbench(*table)
