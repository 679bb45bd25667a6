"""Learning-rate schedules in closed form."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddbench.training.schedules import (
    cosine,
    fifths_at_30_60_80,
    fifths_at_two_thirds,
    half_cosine,
    one_cycle,
    smoothed,
    step_at_half,
    with_warmup,
)


@given(st.integers(1, 1000), st.data())
def test_cosine(steps: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, steps))
    assert cosine(step, steps) == pytest.approx(math.cos(math.pi * step / (2 * steps)) ** 2, abs=1e-12)
    assert cosine(0, steps) == 1
    assert cosine(step, steps) + cosine(steps - step, steps) == pytest.approx(1)


@given(st.integers(1, 1000), st.data())
def test_half_cosine_ends_at_half(steps: int, data: st.DataObject) -> None:
    """RDED's formula; in closed form the square of a cosine."""
    step = data.draw(st.integers(0, steps))
    assert half_cosine(step, steps) == pytest.approx(0.5 * (1.0 + math.cos(math.pi * step / steps / 2)), abs=1e-12)
    assert half_cosine(step, steps) == pytest.approx(math.cos(math.pi * step / (4 * steps)) ** 2, abs=1e-12)
    assert half_cosine(0, steps) == 1
    assert half_cosine(steps, steps) == pytest.approx(0.5)


def test_a_warmup_goes_before_any_schedule() -> None:
    schedule = with_warmup(2, half_cosine)
    assert [schedule(step, 6) for step in range(6)] == [0.01, 0.505, *(half_cosine(step, 4) for step in range(4))]
    assert [with_warmup(0)(step, 6) for step in range(6)] == [cosine(step, 6) for step in range(6)]


@pytest.mark.parametrize(("warmup", "epochs"), [(5, 100), (1, 3), (4, 5), (5, 3)])
def test_warmup_is_that_of_pytorchs_schedulers(warmup: int, epochs: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    linear = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=warmup)
    cosine_decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(1, epochs - warmup))
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [linear, cosine_decay], milestones=[warmup])
    for epoch in range(epochs):
        assert 0.2 * with_warmup(warmup)(epoch, epochs) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


@given(st.integers(1, 30), st.integers(2, 300), st.data())
def test_warmup_rises_on_a_line_and_falls_on_a_cosine(warmup: int, epochs: int, data: st.DataObject) -> None:
    epoch = data.draw(st.integers(0, epochs - 1))
    if epoch < warmup:
        expected = 0.01 * (1 - epoch / warmup) + epoch / warmup
    else:
        expected = math.cos(math.pi * (epoch - warmup) / (2 * (epochs - warmup))) ** 2
    assert with_warmup(warmup)(epoch, epochs) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("steps", "full_steps"), [(1, 1), (2, 1), (5, 3), (1000, 500)])
def test_a_step_in_the_middle(steps: int, full_steps: int) -> None:
    assert [step_at_half(step, steps) for step in range(steps)] == [1.0] * full_steps + [0.1] * (steps - full_steps)


@given(st.integers(1, 1000), st.data())
def test_the_smoothed_schedule_is_edcs_formula(steps: int, data: st.DataObject) -> None:
    """`cos2` of EDC's scripts with `--st 2`, as written there."""
    step, st_ = data.draw(st.integers(0, steps)), 2
    if step <= steps * 5 / 6:
        expected = 0.5 * (1.0 + math.cos(math.pi * step / (st_ * steps)))
    else:
        expected = 0.5 * (1.0 + math.cos(math.pi * 5 / (6 * st_))) * (6 * steps - 6 * step) / (6 * steps)
    assert smoothed(step, steps) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("epochs", [1, 2, 3, 6, 7, 100, 1500, 2000])
def test_two_steps_are_those_of_pytorchs_scheduler(epochs: int) -> None:
    """`MultiStepLR` as Minimax Diffusion calls it."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    milestones = [2 * epochs // 3, 5 * epochs // 6]
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.2)
    for epoch in range(1, epochs):
        optimizer.step()
        scheduler.step()
        assert 0.01 * fifths_at_two_thirds(epoch, epochs) == pytest.approx(optimizer.param_groups[0]["lr"])
    if epochs > 2:
        assert fifths_at_two_thirds(0, epochs) == 1


def test_three_steps_are_those_of_forgetting() -> None:
    factors = [fifths_at_30_60_80(epoch, 200) for epoch in (0, 59, 60, 119, 120, 159, 160, 199)]
    assert factors == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.04, 0.008, 0.008])


@given(st.integers(1, 300).map(lambda quarter: 4 * quarter))
def test_one_cycle_is_a_triangle_of_area_half(steps: int) -> None:
    factors = [one_cycle(step, steps) for step in range(steps)]
    assert sum(factors) / steps == pytest.approx(0.5)
    assert max(factors) <= 1
    rise = [factors[step] for step in range(steps // 4)]
    assert rise == pytest.approx([4 * (step + 0.5) / steps for step in range(steps // 4)])
    assert factors[steps // 4 :] == sorted(factors[steps // 4 :], reverse=True)
    assert 0 < factors[-1] <= 2 / (3 * steps) + 1e-12
