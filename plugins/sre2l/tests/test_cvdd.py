"""CV-DD: the committees, their weights and their loss by hand in float64, and SRe2L as a committee of one."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from ddbench_sre2l import CVDD, SRe2L
from ddbench_sre2l.medium import medium_images
from pydantic import ValidationError
from torch import Tensor

from ddbench.distillation.context import DistillContext
from ddbench.nn import TappedNetwork, batch_norms, build_network

if TYPE_CHECKING:
    from conftest import Shell
    from ddbench.data.dataset import Dataset

SIZE = 8
POOL = ("convnet-bn-d1", "convnet-bn-d2", "convnet-d1")


@dataclasses.dataclass(frozen=True)
class Captured(DistillContext):
    """The real task, which keeps the arguments of the loop instead of running it."""

    calls: list[tuple[Any, Tensor]] = dataclasses.field(default_factory=list)
    asked: list[tuple[str, ...]] = dataclasses.field(default_factory=list)

    def optimise(self, unit: Any, loss: Any, initial: Tensor, settings: Any, state: Any = None) -> Tensor:
        self.calls.append((loss, initial))
        return torch.zeros(len(unit.slots), 3, SIZE, SIZE)


def network(name: str) -> TappedNetwork:
    built = build_network(name, 10, SIZE, seed=len(name)).double()
    for number, layer in enumerate(batch_norms(built).values()):
        assert layer.running_mean is not None
        layer.running_mean.normal_(generator=torch.Generator().manual_seed(number))
    return TappedNetwork(built)


@pytest.fixture
def task(digits_at: Callable[..., Dataset], bare_task: Callable[..., Captured]) -> Captured:
    plain = TappedNetwork(build_network("convnet-bn-d2", 10, SIZE, seed=1))
    captured = bare_task(digits_at(SIZE), plain, kind=Captured, ipc=4, seed=3)

    def teachers(*names: str) -> list[TappedNetwork]:
        captured.asked.append(names)
        return [network(name) for name in names]

    return dataclasses.replace(captured, teachers=teachers)


def hand_terms(teacher: TappedNetwork, view: Tensor, labels: list[int]) -> tuple[Tensor, Tensor]:
    """The cross-entropy and the alignment of a ConvNet, layer by layer."""
    x, alignment, first = view, torch.zeros((), dtype=torch.float64), 10.0
    for layer in teacher.network.features.children():
        if isinstance(layer, torch.nn.BatchNorm2d):
            channels = x.transpose(0, 1).flatten(1)
            mean = torch.stack([channel.sum() / len(channel) for channel in channels])
            variance = torch.stack([((c - m) ** 2).sum() / len(c) for c, m in zip(channels, mean, strict=True)])
            assert layer.running_mean is not None
            assert layer.running_var is not None
            errors = ((mean - layer.running_mean) ** 2).sum().sqrt() + (
                (variance - layer.running_var) ** 2
            ).sum().sqrt()
            alignment, first = alignment + first * errors, 1.0
        x = layer(x)
    probabilities = teacher.network.classifier(x.flatten(1)).softmax(1)
    picked = torch.stack([row[label].log() for row, label in zip(probabilities, labels, strict=True)])
    return -picked.sum() / len(labels), alignment


def test_the_loss_is_the_weighted_sum_of_the_losses_of_its_committee(task: Captured) -> None:
    method = CVDD(teachers=POOL, priors=(60, 57, 50), batch_size=4, jitter=2, bn_weight=0.3)
    units = method.units(10, 4)[::3]
    for unit in units:
        method.distill(task, unit)
    pairs = [(POOL[0], POOL[1]), (POOL[0], POOL[2]), (POOL[1], POOL[2]), (POOL[0], POOL[1])]
    assert task.asked == [pairs[unit.slots[0].index] for unit in units]
    unit, (loss, initial) = units[1], task.calls[1]
    labels = [slot.label for slot in unit.slots]
    assert {slot.index for slot in unit.slots} == {1}
    assert torch.equal(initial, medium_images(task, unit))

    images = torch.randn(4, 3, SIZE, SIZE, dtype=torch.float64, requires_grad=True)
    terms = loss(images, 5)
    (gradient,) = torch.autograd.grad(terms["cross_entropy"] + terms["bn"], images)
    share = math.exp(60 / 5) / (math.exp(60 / 5) + math.exp(50 / 5))
    view = task.view(unit, images, method, 5)
    (first, alignment), (second, none) = (hand_terms(network(name), view, labels) for name in (POOL[0], POOL[2]))
    assert none == 0  # a network without BatchNorm has the cross-entropy alone
    torch.testing.assert_close(terms["cross_entropy"].double(), share * first + (1 - share) * second, rtol=1e-6, atol=0)
    torch.testing.assert_close(terms["bn"].double(), share * 0.3 * alignment, rtol=1e-6, atol=0)
    (by_hand,) = torch.autograd.grad(share * (first + 0.3 * alignment) + (1 - share) * second, images)
    torch.testing.assert_close(gradient, by_hand, rtol=1e-5, atol=1e-9)


def test_weights_are_the_softmax_of_the_priors_of_the_committee_alone() -> None:
    method = CVDD(priors=(62.4, 52, 57.2, 54, 60.8))
    assert method.vote_weights(0, 1) == pytest.approx((1 / (1 + math.exp(-10.4 / 5)), 1 / (1 + math.exp(10.4 / 5))))
    assert CVDD().vote_weights(2, 4) == (0.5, 0.5)
    released = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]
    assert [method.members(index) for index in range(20)] == released * 2
    assert method.image_passes(10, 3) == 10 * 3 * 4000 * 2


def test_a_committee_of_the_teacher_alone_is_sre2l(
    digits_at: Callable[..., Dataset], bare_task: Callable[..., Any]
) -> None:
    teacher = TappedNetwork(build_network("convnet-bn-d2", 10, SIZE, seed=1))
    settings: dict[str, Any] = {"steps": 4, "jitter": 1}
    alone = CVDD(teachers=(), committee=1, initial="noise", **settings)
    (unit,) = alone.units(10, 1)
    made = alone.distill(bare_task(digits_at(SIZE), teacher, "one"), unit)
    expected = SRe2L(**settings).distill(bare_task(digits_at(SIZE), teacher, "other"), unit)
    torch.testing.assert_close(made, expected)
    assert alone.teacher_pool() == ()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"teachers": ("a",)}, "committee 2 is larger than the number of teachers, 1"),
        ({"teachers": ()}, "committee 2 is larger"),
    ],
)
def test_a_committee_larger_than_the_number_of_teachers_is_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        CVDD(**settings)


@pytest.mark.slow
def test_a_run_with_two_teachers_and_one_of_sre2l_plus_plus(shell: Shell) -> None:
    run = ("--dataset", "digits", "--method", "cv-dd", "--ipc", "1", "--image-size", "8")
    shell.run(*run, "--set", "cv-dd.priors=[60,55]", "--set", "evaluator.priors=[60,55]")
    assert len(list((shell.cache / "teacher").glob("[!.]*.safetensors"))) == 2
    shell.run(*run, "--recipe", "sre2l-plus-plus")
    records = [json.loads(path.read_text()) for path in (shell.results / "records").glob("*.json")]
    others = {
        len(record["configuration"]["method_settings"]["teachers"]): record["teacher"].get("others")
        for record in records
    }
    assert others[0] is None
    assert others[2]["convnet-bn-d2"]["used_by"] == ["method", "evaluator"]
