"""Features on which weights matter, and the cost of a barycenter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddbench.core.seeds import generator
from ddbench.ot.exact import transport_cost
from ddbench.ot.points import Barycenter


@pytest.fixture(scope="session")
def clusters() -> Callable[..., Tensor]:
    """Makes features [n, 4] in five unequal clumps far from the origin: here weights matter."""

    def normal(*shape: int, seed: int) -> Tensor:
        return torch.randn(shape, generator=generator("test", seed), dtype=torch.float64)

    def make(n: int = 150, seed: int = 0) -> Tensor:
        centres = 4 * normal(5, 4, seed=seed) + 30
        shares = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05])
        label = torch.multinomial(shares, n, True, generator=generator("label", seed))
        return centres[label] + normal(n, 4, seed=seed + 1000)

    return make


@pytest.fixture(scope="session")
def cost_of() -> Callable[[Barycenter, Tensor], float]:
    """The exact transport cost of a barycenter to features."""
    return lambda actual, features: transport_cost(actual.points, actual.weights, features)
