"""k-center against the optimum found by brute force."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ddbench.methods.k_center import KCenter

if TYPE_CHECKING:
    from tests.unit.methods.conftest import Choose, Cloud


def radius(features: Tensor, rows: list[int] | tuple[int, ...]) -> float:
    """The largest distance of a row to its nearest among `rows`."""
    return max(min(float((z - features[row]).norm()) for row in rows) for z in features)


clouds = st.tuples(st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 4))


@given(drawn=clouds, data=st.data())
def test_k_center_is_at_most_twice_the_optimum(
    cloud: Cloud, choose: Choose, drawn: tuple[int, int, int], data: st.DataObject
) -> None:
    features = cloud(*drawn)
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
