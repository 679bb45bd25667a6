"""k-center against the optimum found by brute force."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from ddbench.methods.k_center import KCenter
from ddbench.methods.selection import Selection


def cloud(seed: int, n: int, d: int) -> Tensor:
    """n points in d dimensions about 0."""
    points = torch.randn(n, d, dtype=torch.float64, generator=Generator().manual_seed(seed))
    return points - points.mean(0)


def choose(method: Selection, features: Tensor, count: int, seed: int = 0) -> list[int]:
    chosen: list[int] = method.choose(features, count, Generator().manual_seed(seed)).tolist()
    return chosen


def radius(features: Tensor, rows: list[int] | tuple[int, ...]) -> float:
    """The largest distance of a row to its nearest among `rows`."""
    return max(min(float((z - features[row]).norm()) for row in rows) for z in features)


clouds = st.builds(cloud, st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 4))


@given(features=clouds, data=st.data())
def test_k_center_is_at_most_twice_the_optimum(features: Tensor, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, min(4, len(features))))
    chosen = choose(KCenter(), features, count)
    optimum = min(radius(features, rows) for rows in itertools.combinations(range(len(features)), count))
    assert radius(features, chosen) <= 2 * optimum + 1e-9
    # From the row nearest to the mean, each next is the farthest from those before.
    assert float(features[chosen[0]].norm()) == pytest.approx(float(features.norm(dim=1).min()))
    for number in range(1, count):
        before = chosen[:number]
        distances = [min(float((z - features[row]).norm()) for row in before) for z in features]
        assert distances[chosen[number]] == pytest.approx(max(distances))
