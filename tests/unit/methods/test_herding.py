"""Herding against the greedy choice, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ddbench.methods.herding import Herding
from ddbench.methods.k_center import KCenter

if TYPE_CHECKING:
    from tests.unit.methods.conftest import Choose, Cloud


def distance_of_means(features: Tensor, rows: list[int]) -> float:
    return float((features[rows].mean(0) - features.mean(0)).norm())


clouds = st.tuples(st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 4))


@given(drawn=clouds, data=st.data())
def test_herding_is_the_greedy_approach_to_the_mean(
    cloud: Cloud, choose: Choose, drawn: tuple[int, int, int], data: st.DataObject
) -> None:
    features = cloud(*drawn)
    count = data.draw(st.integers(1, len(features)))
    chosen = choose(Herding(), features, count)
    assert len(set(chosen)) == count
    for number in range(count):
        before = chosen[:number]
        left = [row for row in range(len(features)) if row not in before]
        least = min(distance_of_means(features, [*before, row]) for row in left)
        assert distance_of_means(features, chosen[: number + 1]) == pytest.approx(least, abs=1e-9)


def test_on_a_line(choose: Choose) -> None:
    features = torch.tensor([[-10.0], [0.5], [-0.25], [9.0], [0.75]], dtype=torch.float64)
    assert float(features.sum()) == 0
    # Sums after each step: -0.25, 0.25, 1, -9, 0. Distances to what was chosen: 9.75 and 9.25, then 1.
    assert choose(Herding(), features, 5) == [2, 1, 4, 0, 3]
    assert choose(KCenter(), features, 4) == [2, 0, 3, 4]
