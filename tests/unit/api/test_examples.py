"""The examples in the docstrings of the public classes are one plugin that works."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddbench.api import DatasetSpec, Distiller, Evaluator, TableSpec

if TYPE_CHECKING:
    from conftest import Shell


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
def examples(
    tmp_path: Path, install_plugin: Callable[[Path, str, str], None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The examples are installed as a plugin."""
    source = "\n".join(example(documented) for documented in (Distiller, Evaluator, DatasetSpec, TableSpec))
    install_plugin(tmp_path / "site", "examples", source)
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield
    del sys.modules["examples"]


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
def test_examples_run(shell: Shell) -> None:
    names = ("--method", "blur", "--dataset", "noise", "--evaluator", "plain", "--student", "convnet-d2")
    run = shell.run(*names, "--ipc", "2", "--set", "evaluator.steps=2", "--image-size", "16")
    assert "plain" in run.out
    outcome = shell(
        "table", "temperature", "--methods", "blur", "--dataset", "noise", "--ipc", "2", "--recipe", "smoke"
    )
    assert outcome.code == 0, outcome.err
    assert "blur, T = 20" in outcome.out
