"""Weights & Biases, offline: its run files hold what the tracker sent. Online without a key is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddbench.api import DDBenchError
from ddbench.trackers.wandb import WeightsAndBiases

if TYPE_CHECKING:
    from conftest import Grid
    from ddbench.api import Tracker


@pytest.mark.slow  # the library starts a process
def test_wandb_keeps_values_picture_and_record_offline(
    grid: Grid, track: Callable[[Tracker], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="Weights & Biases is not installed: pip install 'ddbench[wandb]'")
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    try:
        track(WeightsAndBiases(tmp_path / "tracking"))
    finally:
        wandb.teardown()
    contents = [path.read_bytes() for path in (tmp_path / "tracking").rglob("*.wandb")]
    (own,) = [content for content in contents if grid.record.name.encode() in content]
    assert len(contents) == 2  # one for each cell
    for text in ("distill/loss 2", "evaluate/step", "61.5", grid.record.distilled_digest):
        assert text.encode() in own
    (picture,) = (tmp_path / "tracking").rglob("media/images/*.png")
    assert picture.read_bytes() == grid.picture.read_bytes()


@pytest.mark.slow
def test_online_without_a_key_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="Weights & Biases is not installed: pip install 'ddbench[wandb]'")
    import wandb

    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    wandb.teardown()
    try:
        with pytest.raises(DDBenchError, match="run `wandb login`, or set WANDB_MODE=offline"):
            WeightsAndBiases(tmp_path / "tracking")
    finally:
        wandb.teardown()
