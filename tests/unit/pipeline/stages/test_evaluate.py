"""The stage that evaluates: an evaluator returns Metrics."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ddbench.api.context import EvaluateTask
from ddbench.api.evaluator import Evaluator
from ddbench.api.hookspecs import hookimpl
from ddbench.core.errors import DDBenchError

if TYPE_CHECKING:
    from tests.unit.pipeline.conftest import Desk


def test_an_evaluator_that_returns_something_else_is_refused_by_name(desk_in: type[Desk], tmp_path: Path) -> None:
    class Wrong(Evaluator, frozen=True, extra="forbid"):
        name = "wrong"
        version = "1"
        needs_teacher = False
        epochs: int = 1

        def evaluate(self, task: EvaluateTask) -> Any:
            return 97.5

    plugin = SimpleNamespace(ddbench_evaluators=hookimpl(lambda: [Wrong]))
    with pytest.raises(DDBenchError, match=r"evaluator 'wrong' of .* returned float, not Metrics"):
        desk_in(tmp_path, [plugin]).run(method="random", evaluators=("wrong",))
