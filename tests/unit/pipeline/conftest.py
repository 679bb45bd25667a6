"""Cells of a request, for the tests of what a command line asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ddbench.config.experiment import Experiment
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry


@pytest.fixture(scope="session")
def ask() -> Callable[..., list[Experiment]]:
    """Makes the cells of a request: WMDD on digits at IPC 1 with `smoke`, but for the options."""
    registry = PluginRegistry()

    def ask(**options: Any) -> list[Experiment]:
        usual: dict[str, Any] = {"methods": ("wmdd",), "datasets": ("digits",), "ipcs": (1,), "recipes": ("smoke",)}
        return experiments(Request(**{**usual, **options}), registry)

    return ask


@pytest.fixture(scope="session")
def one(ask: Callable[..., list[Experiment]]) -> Callable[..., Experiment]:
    """Makes the only cell of a request."""

    def one(**options: Any) -> Experiment:
        (cell,) = ask(**options)
        return cell

    return one
