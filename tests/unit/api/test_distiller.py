"""The reasons for which a distiller refuses a dataset."""

from __future__ import annotations

from collections.abc import Callable

from ddbench.api.distiller import too_few_images
from ddbench.data.dataset import Dataset


def test_the_reason_to_refuse_names_the_class(digits_at: Callable[..., Dataset]) -> None:
    info = digits_at(8).info
    assert too_few_images(info, None) is None
    assert too_few_images(info, min(info.train_counts)) is None
    smallest = info.class_names[info.train_counts.index(min(info.train_counts))]
    reason = too_few_images(info, min(info.train_counts) + 1)
    assert reason is not None
    assert f"'{smallest}'" in reason
