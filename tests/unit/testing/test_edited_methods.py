"""The conformance kit names an edited method whose results change under one version."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from ddbench.registry import source
from ddbench.testing import DistillerConformance

if TYPE_CHECKING:
    from conftest import Checker

NAME = "ddkit_edited"
CODE = """
from ddbench.api import Distiller

class Method(Distiller, frozen=True, extra="forbid"):
    "A test."
    name, version, paper, needs_teacher = "edited", {version!r}, "a test", False

    def distill(self, task, unit):
        import torch
        level = {value}
        return torch.full((len(unit.slots), 3, task.info.image_size, task.info.image_size), level)
"""
Edit = Callable[..., list[str]]


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checker: Checker) -> Edit:
    """Edits the method, runs the test as a new process would, and returns the warnings."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def run(value: str, version: str = "1") -> list[str]:
        (tmp_path / f"{NAME}.py").write_text(CODE.format(value=value, version=version))
        monkeypatch.delitem(sys.modules, NAME, raising=False)
        source._digest.cache_clear()
        importlib.invalidate_caches()
        kit = checker.kit(importlib.import_module(NAME).Method(), dataset="few-digits")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            checker.check(kit, "results_change_only_with_the_version")
        return [str(warning.message) for warning in caught if "version" in str(warning.message)]

    return run


@pytest.mark.slow
def test_other_results_of_edited_code_are_named_once(edit: Edit) -> None:
    assert edit("0.5") == []
    assert edit("0.5  # a comment") == []
    assert edit("1 / 2") == []  # the same images
    (message,) = edit("0.75")
    assert message == (
        "method 'edited': its source and its results have changed since the last run of this test, but not its "
        "version '1': raise `version` if results of the old code are kept"
    )
    assert edit("0.75") == []
    assert edit("0.25", version="2") == []


def test_without_pytests_cache_the_test_is_skipped() -> None:
    with pytest.raises(pytest.skip.Exception, match="pytest keeps no results of the last run"):
        DistillerConformance().test_results_change_only_with_the_version(None, SimpleNamespace())  # type: ignore[arg-type]
