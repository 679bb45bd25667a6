"""DELT and FADRM+: the rounds and the images that they start from, the phases, what is mixed in, and the teachers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest
import torch
from ddbench_sre2l import DELT, FADRMPlus
from ddbench_sre2l.inversion import mix, resize
from ddbench_sre2l.medium import medium_images, medium_ranks
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from ddbench.api import Phase
from ddbench.distillation.context import DistillContext
from ddbench.nn import TappedNetwork, build_network

if TYPE_CHECKING:
    from conftest import Shell
    from ddbench.data.dataset import Dataset

SIZE = 8


@dataclasses.dataclass(frozen=True)
class Captured(DistillContext):
    """The real task, which keeps the arguments of the recover loop instead of running it."""

    calls: list[tuple[Tensor, Sequence[Phase], Sequence[Any]]] = dataclasses.field(default_factory=list)

    def recover(
        self, unit: Any, objective: Any, initial: Tensor, settings: Any,
        layer: int | None = None, networks: Sequence[Any] = (), phases: Sequence[Phase] = (),
    ) -> Tensor:  # fmt: skip
        self.calls.append((initial, phases, networks))
        return torch.zeros(len(unit.slots), 3, SIZE, SIZE)


@pytest.fixture
def task(digits_at: Callable[..., Dataset], bare_task: Callable[..., Captured]) -> Captured:
    teacher = TappedNetwork(build_network("convnet-bn-d2", 10, SIZE, seed=1))
    return bare_task(digits_at(SIZE), teacher, kind=Captured, ipc=5, seed=3)


@given(rounds=st.integers(1, 12), ipc=st.integers(1, 40), classes=st.integers(1, 5))
def test_rounds_take_equally_many_images_and_the_first_one_more(rounds: int, ipc: int, classes: int) -> None:
    method = DELT(rounds=rounds, steps=rounds * 3)
    joined = method.joined(ipc)
    added = [later - earlier for earlier, later in zip([0, *joined], joined, strict=False)]
    assert joined[-1] == ipc
    assert added == sorted(added, reverse=True)
    assert added[0] - added[-1] <= 1
    first_round = [next(number for number, count in enumerate(joined) if index < count) for index in range(ipc)]
    passes = sum(3 * (rounds - number) for number in first_round)
    assert method.image_passes(classes, ipc) == classes * passes
    whole, rest = divmod(ipc, rounds)
    closed = 3 * (whole * rounds * (rounds + 1) / 2 + rest * (2 * rounds + 1 - rest) / 2)
    assert passes == closed


@given(count=st.integers(1, 60), data=st.data())
def test_medium_ranks_are_distinct_and_nearest_to_the_middle(count: int, data: Any) -> None:
    wanted = data.draw(st.integers(1, count))
    ranks = medium_ranks(count, wanted)
    assert len(set(ranks)) == wanted
    assert set(ranks) <= set(range(count))
    signs = [-1 if index % 2 == 0 else 1 for index in range(wanted)]  # store_medium: pos_neg
    released = [math.ceil(count / 2) + int(sign * (index + 1) / 2) for index, sign in enumerate(signs)]
    assert [rank % count for rank in released] == ranks


def test_delt_starts_from_medium_images_and_adds_the_images_of_every_class(task: Captured) -> None:
    method = DELT(rounds=2, steps=10)
    (unit,) = method.units(10, 5)
    method.distill(task, unit)
    ((initial, phases, networks),) = task.calls
    assert not networks
    assert [phase.steps for phase in phases] == [5, 5]
    assert phases[0].images == tuple(row for row, slot in enumerate(unit.slots) if slot.index < 3)
    assert phases[1].images == tuple(range(50))
    label = 7
    indices = task.dataset.train.of_class(label)
    with torch.no_grad():
        logits = task.teacher(task.dataset.evaluation_view("train", indices)).logits.double()
    ascending = indices[logits.softmax(1)[:, label].argsort()]
    middle = (len(indices) + 1) // 2
    for index, rank in enumerate((middle, middle + 1, middle - 1, middle + 2, middle - 2)):
        row = next(row for row, slot in enumerate(unit.slots) if (slot.label, slot.index) == (label, index))
        expected = task.dataset.evaluation_view("train", ascending[rank : rank + 1])[0]
        assert torch.equal(initial[row], expected)


def test_fadrm_mixes_its_real_images_in_between_phases_of_two_sizes(task: Captured) -> None:
    method = FADRMPlus(steps=9, scales=(0.5, 1, 1), alpha=0.25, teachers=("a", "b"))
    teachers = [TappedNetwork(build_network("convnet-bn-d2", 10, SIZE, seed=seed)) for seed in (5, 6)]
    captured = dataclasses.replace(task, teachers=lambda *names: [teachers["ab".index(name)] for name in names])
    unit = method.units(10, 5)[0]
    method.distill(captured, unit)
    ((initial, phases, networks),) = captured.calls
    assert list(networks) == teachers
    assert method.teacher_pool() == ("a", "b")
    assert [phase.steps for phase in phases] == [3, 3, 3]
    assert all(phase.images is None for phase in phases)
    real = medium_images(task, unit)
    assert torch.equal(initial, real)
    assert phases[0].start is not None
    small = phases[0].start(initial)
    torch.testing.assert_close(small, torch.nn.functional.interpolate(real, (4, 4), mode="bilinear"))
    optimised = torch.randn_like(small)
    for phase, images in ((phases[1], optimised), (phases[2], resize(optimised, SIZE))):
        assert phase.start is not None
        expected = 0.25 * resize(images, SIZE) + 0.75 * real
        torch.testing.assert_close(phase.start(images), expected)
    assert torch.equal(mix(real, 1, 4, optimised), optimised)


@pytest.mark.parametrize("method", [DELT(rounds=2, initial="noise"), FADRMPlus(teachers=("a",), initial="noise")])
def test_both_start_from_noise_if_it_is_chosen(method: DELT | FADRMPlus, task: Captured) -> None:
    captured = dataclasses.replace(task, teachers=lambda *names: [task.teacher for _ in names])
    unit = method.units(10, 5)[0]
    method.distill(captured, unit)
    ((initial, _, _),) = captured.calls
    assert torch.equal(initial, captured.noise(unit))


@pytest.mark.parametrize("cls", [DELT, FADRMPlus])
def test_the_default_start_is_named(cls: type[DELT | FADRMPlus]) -> None:
    assert cls().initial == "medium"
    assert cls(initial="set:0123").given_set() == "set:0123"
    assert "initial" not in FADRMPlus().model_dump()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: DELT(steps=10, rounds=3), "steps 10 must be a multiple of rounds 3"),
        (lambda: FADRMPlus(steps=10, scales=(1, 1, 1)), "multiple of their number 3"),
        (lambda: FADRMPlus(steps=10, scales=(1, 0.5)), "end with 1"),
    ],
)
def test_uneven_phases_are_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        make()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["delt", "fadrm-plus"])
def test_a_run_from_the_command_line(shell: Shell, method: str) -> None:
    outcome = shell.run("--dataset", "digits", "--method", method, "--ipc", "2", "--image-size", "8")
    assert f"{method.replace('-', '_')}-digits-ipc2" in outcome.out
    teachers = list((shell.cache / "teacher").glob("[!.]*.safetensors"))
    assert len(teachers) == (2 if method == "fadrm-plus" else 1)
