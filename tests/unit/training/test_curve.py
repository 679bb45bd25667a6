"""Measurements during training; `test_loop.py` shows that a resumed training continues them."""

from __future__ import annotations

import json

from torch import nn

from ddbench.training.curve import Curve


def mean_weight(network: nn.Module) -> float:
    assert isinstance(network, nn.Linear)
    network.eval()
    return float(network.weight.detach().mean())


def test_only_the_chosen_steps_are_measured_and_training_mode_is_kept() -> None:
    network, curve = nn.Linear(2, 2), Curve(mean_weight, (2, 5))
    for step in range(1, 7):
        nn.init.constant_(network.weight, step)
        curve.update(network)
        assert network.training
    assert (curve.step, curve.top1) == (6, {2: 2.0, 5: 5.0})


def test_a_restored_curve_goes_on() -> None:
    network = nn.Linear(2, 2)
    first, second = Curve(mean_weight, (1, 3)), Curve(mean_weight, (1, 3))
    nn.init.constant_(network.weight, 1.0)
    first.update(network)
    first.update(network)
    second.load_state(json.loads(json.dumps(first.state())))
    nn.init.constant_(network.weight, 7.0)
    second.update(network)
    assert second.top1 == {1: 1.0, 3: 7.0}
