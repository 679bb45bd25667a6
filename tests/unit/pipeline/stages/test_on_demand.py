"""Artifacts that a method or a protocol asks for while it runs: what they are shared by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.pipeline.conftest import FinishedDesk


def test_lambda_keeps_the_barycenters(finished_desk: FinishedDesk) -> None:
    before = finished_desk.times("method")
    record = finished_desk.run("method.bn_weight=3")
    assert finished_desk.times("method") == before
    assert finished_desk.computed() == {"distill": 1, "evaluate": 1, "measure": 1}
    first = finished_desk.first
    assert record.distilled_digest != first.distilled_digest
    assert record.seconds["method"] == first.seconds["method"]
    assert record.distill_seconds == pytest.approx(record.seconds["method"] + record.seconds["distill"])
    assert record.built["method"] == first.built["method"] <= first.built["distill"] <= record.built["distill"]
