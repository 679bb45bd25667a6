"""The check of the class order: wrong orders are refused, whole or in part; weak, odd and random teachers are not."""

import re

import pytest
import torch
from torch import Tensor

from ddbench.core.errors import DDBenchError
from ddbench.training.class_order import best_outputs, check_class_order


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels_of(classes: int, images: int) -> Tensor:
    return torch.arange(classes).repeat_interleave(images)


def predictions_of(labels: Tensor, classes: int, accuracy: float, seed: int = 0) -> Tensor:
    """The classes of a teacher that knows a class with this probability and else guesses."""
    guessed = torch.randint(classes, labels.shape, generator=drawn(seed))
    return torch.where(torch.rand(labels.shape, generator=drawn(seed + 1)) < accuracy, labels, guessed)


def refusal(predicted: Tensor, labels: Tensor, classes: int) -> str | None:
    try:
        check_class_order("teacher", predicted, labels, [str(number) for number in range(classes)])
    except DDBenchError as error:
        return str(error)
    return None


def test_twelve_classes_in_numeric_order_are_refused_with_the_permutation() -> None:
    names = sorted(str(number) for number in range(12))  # 0, 1, 10, 11, 2, ...
    labels = labels_of(12, 5)
    predicted = torch.tensor([int(name) for name in names])[labels]
    with pytest.raises(DDBenchError) as caught:
        check_class_order("mine.pth", predicted, labels, names)
    text = str(caught.value)
    assert text.startswith("mine.pth has its classes in another order: its top-1 is 16.67 %, but 100.00 % if")
    # Output 2 is taken for the third sorted name, 10, and was trained as 2.
    assert dict(re.findall(r"'(\d+)' is '(\d+)'", text)) == {
        taken: str(number) for number, taken in enumerate(names) if taken != str(number)
    }
    assert text.endswith("--set teacher.classes=FILE (one class per line)")
    check_class_order("mine.pth", labels, labels, names)


@pytest.mark.parametrize(("classes", "images"), [(2, 50), (10, 10), (100, 10), (1000, 4)])
@pytest.mark.parametrize("accuracy", [0.5, 0.75, 1.0])
def test_a_shuffled_order_is_refused_and_the_right_one_is_not(classes: int, images: int, accuracy: float) -> None:
    labels = labels_of(classes, images)
    predicted = predictions_of(labels, classes, accuracy)
    assert refusal(predicted, labels, classes) is None
    if (classes, accuracy) != (2, 0.5):  # of two classes three of four images are right by then
        other = torch.arange(classes).roll(1)
        assert "in another order" in (refusal(other[predicted], labels, classes) or "")


def test_two_exchanged_classes_of_a_hundred_are_refused_and_named() -> None:
    labels = labels_of(100, 10)
    order = torch.arange(100)
    order[[3, 70]] = order[[70, 3]]
    text = refusal(order[predictions_of(labels, 100, 0.9)], labels, 100)
    assert text is not None
    assert re.findall(r"'(\d+)' is '(\d+)'", text) == [("70", "3"), ("3", "70")]


@pytest.mark.parametrize(("classes", "images"), [(2, 3), (10, 2), (10, 40), (100, 2), (100, 10), (1000, 2)])
def test_a_teacher_that_guesses_is_in_no_order(classes: int, images: int) -> None:
    """The best assignment looks better by chance: of 100 classes with 2 images, more than 20 % and not 1 %."""
    labels = labels_of(classes, images)
    for seed in range(3):
        assert refusal(predictions_of(labels, classes, 0.0, seed), labels, classes) is None


def test_a_teacher_that_says_one_class_only_is_in_no_order() -> None:
    labels = labels_of(10, 20)
    assert refusal(torch.zeros_like(labels), labels, 10) is None
    assert refusal(torch.where(labels == 5, 7, 3), labels, 10) is None


def test_a_weak_class_of_a_good_teacher_is_no_order() -> None:
    """Two like classes: one is mostly taken for the other."""
    labels = labels_of(10, 50)
    predicted = predictions_of(labels, 10, 0.8)
    predicted[labels == 4] = 7
    assert refusal(predicted, labels, 10) is None


def test_one_image_a_class_proves_nothing() -> None:
    labels = labels_of(10, 1)
    assert refusal(labels.roll(1), labels, 10) is None


def test_classes_without_images_and_of_other_sizes_are_kept() -> None:
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate([40, 0, 7, 21])])
    assert refusal(labels, labels, 4) is None
    assert "'2' is '0'" in (refusal(torch.tensor([2, 1, 3, 0])[labels], labels, 4) or "")


def test_the_best_assignment_keeps_equal_classes_in_place() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert best_outputs(torch.tensor([0, 1, 0, 1, 2, 2]), labels, 3).tolist() == [0, 1, 2]
    assert best_outputs(torch.tensor([1, 1, 0, 0, 2, 2]), labels, 3).tolist() == [1, 0, 2]
