"""Global generators and memory, as the kit watches them."""

import random

import numpy as np
import torch

from ddbench.testing.state import memory_in_use, reseeded_global_generators


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_generators_are_seeded_otherwise_and_restored() -> None:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    with reseeded_global_generators():
        first = draws()
    with reseeded_global_generators():
        assert draws() == first
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_living_tensors_are_counted() -> None:
    before, unit = memory_in_use(torch.device("cpu"))
    kept = [torch.zeros(1) for _ in range(5)]
    assert memory_in_use(torch.device("cpu")) == (before + 5, "tensors")
    kept.clear()
    assert memory_in_use(torch.device("cpu")) == (before, unit)
