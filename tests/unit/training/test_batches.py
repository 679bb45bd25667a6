"""Batches that are prepared ahead."""

from collections.abc import Iterator

import pytest
import torch

from ddbench.core.errors import DDBenchError
from ddbench.training import batches as batches_module

CPU = torch.device("cpu")


@pytest.mark.parametrize("device", [CPU, torch.device("cuda")])  # named alone: no device is touched
def test_prefetched_keeps_order_and_raises_what_was_raised(device: torch.device) -> None:
    assert list(batches_module.prefetch(range(100), device)) == list(range(100))
    assert list(batches_module.prefetch([], device)) == []
    assert list(batches_module.prefetch([None, 1], device)) == [None, 1]

    def broken() -> Iterator[int]:
        yield 1
        raise DDBenchError("a file that cannot be decoded")

    stream = batches_module.prefetch(broken(), device)
    assert next(stream) == 1
    with pytest.raises(DDBenchError, match="decoded"):
        next(stream)
