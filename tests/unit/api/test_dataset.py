"""Opened datasets: class names and labels that are refused, and facts of the splits."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ddbench.api.dataset import Source
from ddbench.data.source import ArraySplit


def split(labels: list[int] | NDArray[np.generic]) -> ArraySplit:
    """A split of black images whose labels are taken as they are, unsorted too."""
    made = ArraySplit(np.zeros((1, 2, 2), np.uint8), np.zeros(1, np.int64))
    made.labels = np.array(labels)
    return made


@pytest.mark.parametrize("names", [(), ("a", "a"), ("a", 1), ("a", "\udcff")])
def test_class_names_are_distinct_text(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"class names must be distinct strings|surrogates not allowed"):
        Source(names, split([0]), None).check()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 0], "the labels of val are not a sorted one-dimensional int64 array"),
        ([], "the labels of val are not a sorted"),
        ([[0, 1]], "the labels of val are not a sorted"),
        (np.array([0, 1], np.int32), "the labels of val are not a sorted"),
        ([0, 2], "the labels of val go from 0 to 2: 2 classes"),
        ([-1, 0], "the labels of val go from -1 to 0: 2 classes"),
    ],
)
def test_labels_of_every_split_are_sorted_classes(labels: list[int] | NDArray[np.generic], message: str) -> None:
    source = Source(("a", "b"), split([0, 1]), split(labels))
    with pytest.raises(ValueError, match=message):
        source.check()
    Source(("a", "b"), split([0, 1]), split([0, 0, 1])).check()


def test_a_dataset_without_validation_images_has_one_split() -> None:
    train, val = split([0, 1]), split([0, 1])
    assert Source(("a", "b"), train, None).splits == {"train": train}
    assert Source(("a", "b"), train, val).splits == {"train": train, "val": val}
    assert Source(("a", "b"), train, None).fingerprint() != Source(("a", "b"), train, val).fingerprint()
