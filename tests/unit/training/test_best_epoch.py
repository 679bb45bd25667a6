"""The epoch with the highest score is kept, also across a checkpoint."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ddbench.training.best_epoch import BestEpoch


def bias(network: nn.Module) -> tuple[float, ...]:
    return (round(float(network.get_parameter("bias").detach())),)


def feed(best: BestEpoch, scores: list[int], first: int = 1) -> None:
    network = nn.Linear(1, 1)
    for epoch, score in enumerate(scores, first):
        network.bias.data.fill_(score)
        best.update(network, epoch)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=12), st.integers(0, 12))
def test_the_earliest_highest_score_wins_also_after_a_resume(scores: list[int], stop: int) -> None:
    best = BestEpoch(bias)
    feed(best, scores[:stop])
    tensors, meta = best.state()
    resumed = BestEpoch(bias)
    resumed.load_state({**tensors, "network/bias": torch.zeros(1)}, meta)
    feed(resumed, scores[stop:], len(scores[:stop]) + 1)
    assert resumed.epoch == scores.index(max(scores)) + 1
    assert resumed.weights.keys() == {"weight", "bias"}
    assert float(resumed.weights["bias"]) == max(scores)


def test_weights_are_a_copy() -> None:
    best, network = BestEpoch(bias), nn.Linear(1, 1)
    network.bias.data.fill_(3)
    best.update(network, 1)
    network.bias.data.fill_(9)
    assert float(best.weights["bias"]) == 3


def test_before_the_first_epoch_there_is_nothing() -> None:
    tensors, meta = BestEpoch(bias).state()
    assert tensors == {}
    best = BestEpoch(bias)
    best.load_state(tensors, meta)
    assert (best.epoch, best.weights) == (0, {})
