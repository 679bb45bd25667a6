"""The state of a training run: a checkpoint brings all of it back, and nothing that is not finite is saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from ddbench.core.errors import DDBenchError
from ddbench.storage.checkpoint import Checkpoint
from ddbench.training.state import ExtendedCheckpoint, TrainingState

CPU = torch.device("cpu")


def state_at(path: Path, seed: int) -> TrainingState:
    """A network with draws of `seed`, after one step of Adam."""
    network = nn.Linear(3, 2)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    network(torch.randn(4, 3, generator=generator)).square().sum().backward()
    optimizer.step()
    return TrainingState(network, optimizer, CPU, Checkpoint(path / "slot.safetensors"), None)


def test_a_checkpoint_brings_everything_back(tmp_path: Path) -> None:
    one, other = state_at(tmp_path, 1), state_at(tmp_path, 2)
    for _ in range(3):
        one.finish_epoch()
    one.losses = [torch.tensor(0.5), torch.tensor(0.25)]
    with one.network_draws(7):
        torch.rand(5)
        one.save()
        following = torch.rand(3)
    other.load()
    assert other.epoch == 3
    assert [float(loss) for loss in other.losses] == [0.5, 0.25]
    with other.network_draws(7):  # inside an epoch, the draws go on
        assert torch.equal(torch.rand(3), following)
    before, after = one.require_finite("x"), other.require_finite("x")
    assert before.keys() == after.keys()
    assert {"network/weight", "optimizer/0/exp_avg", "optimizer/1/exp_avg_sq", "optimizer/0/step"} <= before.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_other_tensors_are_restored_in_place_or_added_and_the_training_ignores_them(tmp_path: Path) -> None:
    plain = Checkpoint(tmp_path / "slot.safetensors")
    one, other = state_at(tmp_path, 1), state_at(tmp_path, 2)
    one.checkpoint = ExtendedCheckpoint(plain, {"counts": torch.arange(3), "weight": torch.ones(2)})
    one.save()
    counts = torch.zeros(3, dtype=torch.int64)
    other.checkpoint = ExtendedCheckpoint(plain, {"counts": counts})
    other.load()
    assert counts.tolist() == [0, 1, 2]
    assert other.checkpoint.tensors["weight"].tolist() == [1, 1]
    before, after = one.require_finite("x"), other.require_finite("x")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_draws_of_a_new_epoch_begin_with_its_seed_and_leave_the_global_generator_alone(tmp_path: Path) -> None:
    state = state_at(tmp_path, 1)
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with state.network_draws(7):
        drawn = torch.rand(3)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(7)))
    assert torch.equal(torch.rand(2), expected)


def test_what_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    state = state_at(tmp_path, 1)
    state.save()
    sound = state.checkpoint.load()  # type: ignore[union-attr]
    with torch.no_grad():
        state.network.weight[0, 0] = float("nan")
    state.finish_epoch()
    with pytest.raises(DDBenchError, match=r"training, after epoch 1.*network/weight"):
        state.save()
    kept = state.checkpoint.load()  # type: ignore[union-attr]
    assert sound is not None
    assert kept is not None
    assert torch.equal(kept[0]["network/weight"], sound[0]["network/weight"])
