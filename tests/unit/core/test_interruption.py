"""Asked to stop by a signal or the clock, a run saves the step that it is at, says so, and goes on from there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from ddbench.api.settings import TrainingSettings
from ddbench.core import interruption, seeds
from ddbench.storage.artifacts import Built, read_tensors
from ddbench.storage.cache import Cache
from ddbench.storage.checkpoint import Checkpoint
from ddbench.training import loop
from ddbench.training.batches import Batch
from ddbench.training.best_epoch import BestEpoch
from ddbench.training.curve import Curve

BATCHES = 3


SETTINGS = TrainingSettings(optimizer="adamw", epochs=2, learning_rate=0.01)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.3), nn.Flatten(), nn.Linear(8 * 36, 4))


def batches(epoch: int, signals: dict[tuple[int, int], signal.Signals]) -> Iterator[Batch]:
    """Three batches; before the one that `signals` names (epoch, batch), the process gets its signal."""
    draw = seeds.generator("stopping test", epoch)
    for number in range(BATCHES):
        images, labels = torch.randn(6, 3, 8, 8, generator=draw), torch.randint(0, 4, (6,), generator=draw)
        if (epoch, number) in signals:
            signal.raise_signal(signals.pop((epoch, number)))
        yield Batch(images, lambda logits, labels=labels: functional.cross_entropy(logits, labels))  # type: ignore[misc]


def fit(
    slot: Checkpoint, signals: dict[tuple[int, int], signal.Signals]
) -> tuple[dict[str, torch.Tensor], tuple[int, dict[int, float]]]:
    student = network()
    curve = Curve(lambda trained: float(trained[0].weight.detach().sum()), {1, 4, 5})
    keep = BestEpoch(lambda trained: (float(trained[0].weight.detach().sum()),))
    torch.manual_seed(os.getpid())  # another process has another global generator
    with interruption.handle_signals():
        loop.fit(
            student,
            lambda epoch: batches(epoch, signals),
            SETTINGS,
            torch.device("cpu"),
            "fp32",
            slot,
            curve=curve,
            best_epoch=keep,
        )
    return {**student.state_dict(), **keep.weights}, (keep.epoch, curve.top1)


@pytest.mark.parametrize("epoch", range(SETTINGS.epochs))
@pytest.mark.parametrize("batch", range(BATCHES))
def test_training_stopped_at_any_step_ends_with_the_same_bits(tmp_path: Path, epoch: int, batch: int) -> None:
    untouched, best = fit(Checkpoint(tmp_path / "untouched.safetensors"), {})
    slot = Checkpoint(tmp_path / "slot.safetensors")
    with pytest.raises(interruption.Stopped, match="SIGTERM"):
        fit(slot, {(epoch, batch): signal.SIGTERM})
    actual = read_tensors(slot.path)
    assert actual is not None
    tensors, meta, _ = actual
    assert (meta["epoch"], len(tensors["epoch/losses"])) == (epoch, batch + 1)  # at once, not at the epoch's end
    assert not interruption.requested()
    resumed, resumed_best = fit(slot, {})
    assert best == resumed_best
    assert untouched.keys() == resumed.keys()
    for name, tensor in untouched.items():
        assert torch.equal(tensor, resumed[name]), name


def listen_and_get(number: signal.Signals, times: int, seconds: float) -> None:
    """A computation of `seconds` that never looks up, and gets the signal so many times at its beginning."""
    with interruption.handle_signals():
        for _ in range(times):
            signal.raise_signal(number)
        assert interruption.requested()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            pass


def test_ctrl_c_twice_stops_where_it_stands() -> None:
    listen_and_get(signal.SIGINT, 1, 0)
    with pytest.raises(interruption.Stopped, match="Ctrl-C"):
        listen_and_get(signal.SIGINT, 2, 60)
    assert not interruption.requested()


def test_who_does_not_answer_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "GRACE_SECONDS", 0.05)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(interruption.Stopped, match="SIGTERM"):
        listen_and_get(signal.SIGTERM, 1, 60)
    assert signal.getsignal(signal.SIGTERM) is before


def nothing(checkpoint: Checkpoint) -> Built:
    return {}, {}


def test_a_stop_comes_when_what_was_computed_is_stored(tmp_path: Path) -> None:
    """A stage without a loop of its own, as one class's statistics, is not lost, and the next one is not begun."""

    def build(checkpoint: Checkpoint) -> Built:
        signal.raise_signal(signal.SIGTERM)
        return {"x": torch.ones(3)}, {}

    with interruption.handle_signals(), pytest.raises(interruption.Stopped, match="SIGTERM"):
        Cache(tmp_path).get("statistics", {}, build)
    assert Cache(tmp_path).find("statistics", {}) is not None


def test_who_waits_for_another_process_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "GRACE_SECONDS", 3600.0)
    messages: list[str] = []

    def ask(text: str) -> None:
        messages.append(text)
        signal.raise_signal(signal.SIGTERM)

    def hold(checkpoint: Checkpoint) -> Built:
        with interruption.handle_signals(), pytest.raises(interruption.Stopped, match="SIGTERM"):
            Cache(tmp_path, warn=ask).get("teacher", {}, nothing)
        return {}, {}

    Cache(tmp_path).get("teacher", {}, hold)
    assert messages == ["waiting for another process that builds this teacher artifact"]
