"""What fills a table: long work needs a yes, and a cause that cells share is reported once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ddbench.core.errors import DDBenchError
from ddbench.pipeline.request import Request
from ddbench.registry.registry import PluginRegistry
from ddbench.tables.context import TableContext

HOUR = 3600.0


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., tuple[TableContext, list[str]]]:
    def make(yes: bool = False) -> tuple[TableContext, list[str]]:
        messages: list[str] = []
        request = Request(methods=(), datasets=(), ipcs=())
        return TableContext(request, PluginRegistry(()), None, tmp_path, messages.append, (), yes), messages

    return make


def test_an_hour_of_work_starts_and_more_needs_a_yes(make: Callable[..., tuple[TableContext, list[str]]]) -> None:
    context, messages = make()
    context.check_duration(HOUR)
    assert messages == []
    with pytest.raises(DDBenchError, match=r"take about 3\.0 h on this device: --yes starts them, --dry-run lists"):
        context.check_duration(3 * HOUR)
    agreed, messages = make(yes=True)
    agreed.check_duration(3 * HOUR)
    assert messages == ["this will take about 3.0 h on this device"]


def test_a_cause_that_cells_share_is_reported_once(make: Callable[..., tuple[TableContext, list[str]]]) -> None:
    context, messages = make()
    for cell in ("one", "two"):
        assert context.report_failure(cell, KeyError("x")) == "KeyError: 'x'"
    assert context.report_failure("three", DDBenchError("no such method")) == "no such method"
    assert messages == ["one: failed: KeyError: 'x'", "three: failed: no such method"]
