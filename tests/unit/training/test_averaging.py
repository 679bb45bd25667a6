"""The average of the weights: its closed form, what a run measures with it, and a resume."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ddbench.api.settings import TrainingSettings
from ddbench.core import interruption, seeds
from ddbench.storage.checkpoint import Checkpoint
from ddbench.training import loop
from ddbench.training.averaging import WeightAverage
from ddbench.training.batches import Batch
from ddbench.training.best_epoch import BestEpoch
from ddbench.training.curve import Curve

CPU = torch.device("cpu")
SETTINGS = TrainingSettings(epochs=4, learning_rate=0.05)


def small_network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 4, 2))


def batches(epoch: int) -> Iterator[Batch]:
    generator = seeds.generator("averaging test", epoch)
    for _ in range(3):
        yield Batch(torch.randn(6, 3, 4, 4, generator=generator), lambda logits: (logits - 1).square().mean())


class Watched(WeightAverage):
    """Keeps the parameters at every update."""

    def __init__(self, decay: float) -> None:
        super().__init__(decay)
        self.seen: list[dict[str, Tensor]] = []

    def update(self, network: nn.Module) -> None:
        super().update(network)
        self.seen.append({name: value.detach().double().clone() for name, value in network.named_parameters()})


def trained(average: WeightAverage | None, checkpoint: Checkpoint | None = None) -> nn.Module:
    network = small_network()
    loop.fit(network, batches, SETTINGS, CPU, "fp32", checkpoint, average=average)
    return network


def test_a_run_ends_with_the_average_in_closed_form() -> None:
    """d^n w_0 + (1 - d) sum_i d^(n - i) w_i over n = 12 steps; the statistics of BatchNorm are the network's own."""
    average, d = Watched(0.9), 0.9
    network, plain = trained(average), trained(None)
    start = dict(small_network().named_parameters())
    n = len(average.seen) - 1
    assert n == 12
    for name, parameter in network.named_parameters():
        assert torch.equal(average.seen[0][name], start[name].double())
        steps = [average.seen[i][name] * (1 - d) * d ** (n - i) for i in range(1, n + 1)]
        expected = start[name].detach().double() * d**n + torch.stack(steps).sum(0)
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-5, atol=1e-6)
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, plain.get_buffer(name)), name


def test_no_decay_is_the_network_and_the_training_does_not_change() -> None:
    average = Watched(0.9)
    trained(average)
    for (name, one), other in zip(
        trained(None).named_parameters(), trained(WeightAverage(0)).parameters(), strict=True
    ):
        assert torch.equal(one, other), name
        assert torch.equal(average.seen[-1][name], one.double()), name


def test_validation_and_selection_see_the_average() -> None:
    """The training goes on from the network's own parameters."""
    average, seen = Watched(0.9), []
    network = small_network()

    def measure(trained: nn.Module) -> float:
        return seen.append(network[3].weight.detach().clone()) or 0.0  # type: ignore[func-returns-value]

    curve = Curve(measure, {3, 6, 9, 12})  # 3 steps an epoch
    best = BestEpoch(lambda network: (0.0,))
    loop.fit(network, batches, SETTINGS, CPU, "fp32", curve=curve, best_epoch=best, average=average)
    last: dict[int, Tensor] = {}
    expected = average.seen[0]["3.weight"]
    for step, parameters in enumerate(average.seen[1:]):
        expected = 0.9 * expected + 0.1 * parameters["3.weight"]
        last[step // 3] = expected
    assert len(seen) == 4
    for epoch, weight in enumerate(seen):
        torch.testing.assert_close(weight.double(), last[epoch], rtol=1e-5, atol=1e-6)
    assert torch.equal(best.weights["3.weight"], seen[0])
    assert torch.equal(average.seen[-1]["3.weight"], trained(None).get_parameter("3.weight").double())


@pytest.mark.parametrize("within", [False, True])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within: bool) -> None:
    """Killed after the second epoch, or stopped within the third, after its second step."""
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    slot = Checkpoint(tmp_path / "slot.safetensors")

    def interrupted(epoch: int) -> Iterator[Batch]:
        for number, batch in enumerate(batches(epoch)):
            if (epoch, number) == (2, 1):
                if not within:
                    raise KeyboardInterrupt
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with pytest.raises((KeyboardInterrupt, interruption.Stopped)), interruption.handle_signals():
        loop.fit(small_network(), interrupted, SETTINGS, CPU, "fp32", slot, average=WeightAverage(0.9))
    saved = slot.load()
    assert saved is not None
    assert ("epoch/losses" in saved[0]) == within
    expected = trained(WeightAverage(0.9)).state_dict()
    for _ in range(2):  # resumed, then loaded after the last epoch
        for name, tensor in trained(WeightAverage(0.9), slot).state_dict().items():
            assert torch.equal(tensor, expected[name]), name
