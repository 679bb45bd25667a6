"""Learning-rate schedules in closed form."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddbench.training.schedules import cosine, step_at_half


@given(st.integers(1, 1000), st.data())
def test_cosine(steps: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, steps))
    assert cosine(step, steps) == pytest.approx(math.cos(math.pi * step / (2 * steps)) ** 2, abs=1e-12)
    assert cosine(0, steps) == 1
    assert cosine(step, steps) + cosine(steps - step, steps) == pytest.approx(1)


@pytest.mark.parametrize(("steps", "full_steps"), [(1, 1), (2, 1), (5, 3), (1000, 500)])
def test_a_step_in_the_middle(steps: int, full_steps: int) -> None:
    assert [step_at_half(step, steps) for step in range(steps)] == [1.0] * full_steps + [0.1] * (steps - full_steps)
