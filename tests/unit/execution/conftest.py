"""A small grid for the tests of executors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache

REQUEST = Request(
    methods=("wmdd",),
    datasets=("digits",),
    ipcs=(2,),
    recipes=("smoke",),
    image_size=8,
    arch="convnet-bn-d1",
    device="cpu",
    precision="fp32",
    assignments=(
        "teacher.batch_size=256",
        "teacher.epochs=1",
        "wmdd.batch_size=4",
        "wmdd.steps=2",
        "evaluator.epochs=1",
    ),
)


@pytest.fixture
def grid(tmp_path: Path) -> Callable[..., list[Pipeline]]:
    """Makes the pipelines of a request of WMDD on digits, all on one cache; `changes` are fields of the request."""

    def make(
        force: frozenset[str] = frozenset(), registry: PluginRegistry | None = None, **changes: Any
    ) -> list[Pipeline]:
        registry = registry or PluginRegistry()
        workspace = Workspace(registry, Cache(tmp_path, force), None)
        return [Pipeline(workspace, cell) for cell in experiments(replace(REQUEST, **changes), registry)]

    return make
