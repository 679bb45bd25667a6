"""The stage that distils: what a method may return, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from ddbench.api.context import DistillTask
from ddbench.api.distiller import Distiller
from ddbench.api.hookspecs import hookimpl
from ddbench.api.units import Unit, UnitResult, units_of_whole_classes
from ddbench.core.errors import DDBenchError

if TYPE_CHECKING:
    from tests.unit.pipeline.conftest import Desk


Make = Callable[[DistillTask, Unit], Any]


def faulty(make: Make, batch_size: int = 1000) -> object:
    class Faulty(Distiller, frozen=True, extra="forbid"):
        name = "faulty"
        version = "1"
        needs_teacher = False

        def units(self, num_classes: int, ipc: int) -> list[Unit]:
            return units_of_whole_classes(num_classes, ipc, batch_size)

        def distill(self, task: DistillTask, unit: Unit) -> Any:
            return make(task, unit)

    return SimpleNamespace(ddbench_distillers=hookimpl(lambda: [Faulty]))


def gray(unit: Unit, size: int = 8) -> Tensor:
    return torch.full((len(unit.slots), 3, size, size), 0.5)


def indices(task: DistillTask, unit: Unit) -> Tensor:
    return torch.stack([task.dataset.train.of_class(slot.label)[slot.index] for slot in unit.slots])


def first_differs(tensor: Tensor, value: float) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[0] = value
    return tensor


REFUSED: dict[str, tuple[Make, str]] = {
    "another size": (lambda task, unit: gray(unit, 9), r"images of shape \(20, 3, 9, 9\) .*expected \(20, 3, 8, 8\)"),
    "too few": (lambda task, unit: gray(unit)[1:], r"images of shape \(19, 3, 8, 8\)"),
    "NaN": (lambda task, unit: first_differs(gray(unit), float("nan")), r"pixels outside \[0, 1\]"),
    "above 1": (lambda task, unit: first_differs(gray(unit), 1.5), r"pixels outside \[0, 1\] \(from 0.5 to 1.5\)"),
    "uint8": (lambda task, unit: (gray(unit) * 255).to(torch.uint8), r"pixels outside \[0, 1\]"),
    "nothing": (lambda task, unit: UnitResult(), "either images or indices"),
    "both": (
        lambda task, unit: UnitResult(images=gray(unit), indices=indices(task, unit)),
        "either images or indices",
    ),
    "a list": (lambda task, unit: [gray(unit)], "returned list instead of images"),
    "another class": (
        lambda task, unit: UnitResult(indices=indices(task, unit).flip(0)),
        "classes are not those of the slots",
    ),
    "too few indices": (
        lambda task, unit: UnitResult(indices=indices(task, unit)[1:]),
        "19 indices for unit 0; expected 20, one per slot",
    ),
    "outside": (lambda task, unit: UnitResult(indices=indices(task, unit) + 10**6), "outside the training set"),
    "below": (lambda task, unit: UnitResult(indices=indices(task, unit) - 10**6), "outside the training set"),
    "float indices": (
        lambda task, unit: UnitResult(indices=indices(task, unit).float()),
        "torch.float32; expected a one-dimensional int64",
    ),
    "a mask": (
        lambda task, unit: UnitResult(indices=torch.ones(20, dtype=torch.bool)),
        "torch.bool; expected a one-dimensional int64",
    ),
    "negative weight": (
        lambda task, unit: UnitResult(images=gray(unit), weights=first_differs(torch.ones(20), -1)),
        "weights that are not one number >= 0 per slot",
    ),
    "NaN weight": (
        lambda task, unit: UnitResult(images=gray(unit), weights=first_differs(torch.ones(20), float("nan"))),
        "weights that are not one number >= 0 per slot",
    ),
    "too few weights": (
        lambda task, unit: UnitResult(images=gray(unit), weights=torch.ones(10)),
        "weights that are not one number >= 0 per slot",
    ),
    "a class of no weight": (
        lambda task, unit: UnitResult(images=gray(unit), weights=torch.tensor([0.0, 0.0] + [1.0] * 18)),
        "the weights of a class sum to zero",
    ),
}


@pytest.mark.parametrize("what", sorted(REFUSED))
def test_what_a_method_may_not_return_is_refused_by_name(desk_in: type[Desk], tmp_path: Path, what: str) -> None:
    make, message = REFUSED[what]
    desk = desk_in(tmp_path, [faulty(make)])
    with pytest.raises(DDBenchError, match=f"method 'faulty'.*{message}") as caught:
        desk.run(method="faulty", evaluators=("hard",))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weighted", [0, 1])
def test_weights_of_some_units_only_are_refused(desk_in: type[Desk], tmp_path: Path, weighted: int) -> None:
    def make(task: DistillTask, unit: Unit) -> UnitResult:
        weights = torch.ones(len(unit.slots)) if unit.index == weighted else None
        return UnitResult(images=gray(unit), weights=weights)

    desk = desk_in(tmp_path, [faulty(make, batch_size=10)])
    with pytest.raises(DDBenchError, match=r"method 'faulty'.* weights for all units or for none"):
        desk.run(method="faulty", evaluators=("hard",))


def test_a_plain_tensor_and_weights_on_any_scale_are_taken(desk_in: type[Desk], tmp_path: Path) -> None:
    plain = desk_in(tmp_path / "plain", [faulty(lambda task, unit: gray(unit))])
    set_of_images = plain.pipeline(plain.cell(method="faulty", evaluators=("hard",))).distilled
    assert set_of_images.images.unique().tolist() == [128]
    assert torch.equal(set_of_images.weights, torch.full((20,), 0.5))
    weights = torch.arange(1.0, 21.0)
    weighted = desk_in(
        tmp_path / "weighted", [faulty(lambda task, unit: UnitResult(images=gray(unit), weights=weights))]
    )
    actual = weighted.pipeline(weighted.cell(method="faulty", evaluators=("hard",))).distilled.weights
    torch.testing.assert_close(actual[:4], torch.tensor([1 / 3, 2 / 3, 3 / 7, 4 / 7]))
