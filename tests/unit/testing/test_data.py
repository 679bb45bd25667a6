"""The kit's dataset and its method of noise."""

import numpy as np

from ddbench.data.arrays import open_digits
from ddbench.data.source import ArraySplit
from ddbench.testing.data import FEW_DIGITS, OTHER_CLASSES, SMALLEST_CLASS, ddbench_datasets, open_few_digits


def test_classes_are_uneven_and_images_are_those_of_the_digits() -> None:
    few, digits = open_few_digits(None), open_digits()
    assert isinstance(few.train, ArraySplit)
    assert isinstance(digits.train, ArraySplit)
    assert np.bincount(few.train.labels).tolist() == [SMALLEST_CLASS] + [OTHER_CLASSES] * 9
    first = digits.train.pixels[digits.train.labels == 4][:OTHER_CLASSES]
    assert np.array_equal(few.train.pixels[few.train.labels == 4], first)
    (spec,) = ddbench_datasets()
    assert spec.name == FEW_DIGITS
