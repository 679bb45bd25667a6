"""What a method returns for a unit: pixel spaces, soft labels, a learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ddbench.api.units import Slot, Unit, UnitResult
from ddbench.core.errors import DDBenchError
from ddbench.data.dataset import Dataset
from ddbench.distillation.distilled_set import stored_images
from ddbench.distillation.units import check_result, check_units, extras_of

UNIT = Unit(0, (Slot(0, 0), Slot(1, 0)))
SOFT = torch.softmax(torch.arange(20.0).view(2, 10), 1)


@pytest.fixture(scope="module")
def digits(digits_at: Callable[..., Dataset]) -> Dataset:
    return digits_at(8, 10)


def result(**parts: Any) -> UnitResult:
    return UnitResult(**{"images": torch.full((2, 3, 8, 8), 0.5), **parts})


def test_pixels_are_stored_in_their_space(digits: Dataset) -> None:
    beyond = torch.linspace(-1, 2, 2 * 3 * 64).view(2, 3, 8, 8)
    unit = check_result(result(images=beyond, pixels="unit"), UNIT, digits, "method")
    assert torch.equal(stored_images(unit, digits, None), beyond)
    normalised = check_result(result(images=digits.normalise(beyond), pixels="normalised"), UNIT, digits, "method")
    torch.testing.assert_close(stored_images(normalised, digits, None), beyond, rtol=0, atol=1e-6)
    assert stored_images(check_result(result(), UNIT, digits, "method"), digits, None).dtype == torch.uint8
    with pytest.raises(DDBenchError, match=r"distill\.jpeg_quality=75: the method stores floats"):
        stored_images(unit, digits, 75)


def test_soft_labels_and_the_rate_become_tensors(digits: Dataset) -> None:
    checked = check_result(result(probabilities=SOFT.double(), learning_rate=0.25), UNIT, digits, "method")
    extras = extras_of(checked)
    assert extras.keys() == {"probabilities", "learning_rate"}
    assert torch.equal(extras["probabilities"], SOFT)
    assert extras["learning_rate"].tolist() == [0.25]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"probabilities": SOFT[:1]}, r"returned probabilities of torch.float32 \[1, 10\]; floats \[2, 10\]"),
        ({"probabilities": SOFT * 2}, "returned probabilities that are below 0 or do not sum to 1"),
        ({"probabilities": SOFT, "logits": SOFT}, "returned both probabilities and logits"),
        ({"logits": SOFT * torch.inf}, "returned logits that are not finite"),
        ({"logits": [0.0]}, "returned logits that are not a tensor but list"),
        ({"learning_rate": 0.0}, "returned a learning rate that is not one number above 0"),
        ({"learning_rate": "0.1"}, "returned a learning rate that is no number"),
        ({"images": torch.full((2, 3, 8, 8), torch.inf), "pixels": "unit"}, "pixels that are not finite"),
        ({"images": torch.full((2, 3, 8, 8), 1.5)}, r"pixels outside \[0, 1\]"),
        ({"pixels": "byte"}, "did you mean 'bytes'"),
    ],
)
def test_wrong_results_are_refused(parts: dict[str, Any], message: str, digits: Dataset) -> None:
    with pytest.raises(DDBenchError, match=message):
        check_result(result(**parts), UNIT, digits, "the method")


def test_each_slot_is_in_one_unit() -> None:
    check_units([UNIT], 2, 1, "method")
    with pytest.raises(DDBenchError, match="must make each of 1 images of 2 classes once"):
        check_units([UNIT, Unit(1, UNIT.slots)], 2, 1, "method")
