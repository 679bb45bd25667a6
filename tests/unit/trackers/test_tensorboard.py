"""TensorBoard reads what the tracker wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddbench.trackers.tensorboard import TensorBoard

if TYPE_CHECKING:
    from conftest import Grid
    from ddbench.api import Tracker


def test_tensorboard_reads_values_picture_and_record(
    grid: Grid, track: Callable[[Tracker], None], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install 'ddbench[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track(TensorBoard(tmp_path / "tracking"))
    assert {path.name for path in (tmp_path / "tracking").iterdir()} == {
        grid.record.name,
        "random-digits-ipc1-01234567",
    }
    events = EventAccumulator(str(tmp_path / "tracking" / grid.record.name))
    events.Reload()

    def scalars(name: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in events.Scalars(name)]

    assert scalars("distill/loss") == [(1, 0.5), (2, 0.25)]
    assert scalars("distill/loss 2") == [(1, 1.5), (2, 1.25)]
    assert scalars("evaluate/top1") == [(30, 61.5)]
    assert scalars("record/top1_last") == [(0, pytest.approx(grid.record.metrics.top1_last))]
    (image,) = events.Images("set")
    assert (image.width, image.height) == (6, 4)
    (text,) = events.Tensors("record/text_summary")
    assert grid.record.distilled_digest in text.tensor_proto.string_val[0].decode()
