"""The choice of the executor, and Ray that is not installed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from ddbench.core.errors import DDBenchError
from ddbench.execution.choose import choose
from ddbench.pipeline.executor import Inline
from ddbench.registry.registry import PluginRegistry

if TYPE_CHECKING:
    from conftest import Shell


def test_inline_leaves_settings_alone_and_has_no_resources() -> None:
    executor, left = choose("inline", "ignored", ("teacher.epochs=1",), PluginRegistry())
    assert (type(executor), left) == (Inline, ("teacher.epochs=1",))
    with pytest.raises(DDBenchError, match="--executor ray"):
        choose("inline", None, ("resources.distill.cpus=2",), PluginRegistry())


def test_without_ray_one_line_says_what_to_install(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    request = ("--method", "random", "--dataset", "digits", "--ipc", "1", "--executor", "ray")
    for command in (("run", *request), ("table", "comparison", *request[2:])):
        outcome = shell(*command)
        assert outcome.code == 2
        (line,) = outcome.errors
        assert "pip install 'ddbench[ray]'" in line
    assert not shell.files()
