"""Batches that are reduced when memory runs out (faults of a real allocator: tests/faults/test_memory.py)."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddbench.core.errors import DDBenchError
from ddbench.nn.memory import OOMBatcher, in_parts, is_out_of_memory, oom_errors


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not create a primitive descriptor for a matmul"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_errors_that_mean_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


@given(count=st.integers(1, 100), fits=st.integers(1, 100))
def test_the_batch_is_halved_until_it_fits_and_the_size_is_kept(count: int, fits: int) -> None:
    tried: list[int] = []

    def attempt(size: int) -> int:
        tried.append(size)
        if size > fits:
            raise MemoryError
        return size

    batcher = OOMBatcher("images")
    size = batcher(attempt, count)
    assert size <= fits
    assert all(after == (before + 1) // 2 for before, after in itertools.pairwise(tried))
    tried.clear()
    assert batcher(attempt, count) == size
    assert tried == [size]


def test_one_item_that_does_not_fit_and_other_errors_are_raised() -> None:
    def fail(error: Exception) -> None:
        def attempt(size: int) -> None:
            raise error

        OOMBatcher("images")(attempt, 4)

    with pytest.raises(MemoryError):
        fail(MemoryError())
    with pytest.raises(RuntimeError, match="shapes"):
        fail(RuntimeError("shapes"))


def test_parts_of_an_empty_batch() -> None:
    (actual,) = in_parts(lambda part: [part * 2], "rows")(torch.zeros(0, 3))
    assert actual.shape == (0, 3)


def test_the_error_names_settings_and_the_innermost_callback_is_called() -> None:
    outer: list[str] = []
    inner: list[str] = []

    def attempt(size: int) -> None:
        if size > 2:
            raise MemoryError

    with oom_errors("teacher", [], outer.append), oom_errors("distill", [], inner.append):
        OOMBatcher("images")(attempt, 4)
    with pytest.raises(DDBenchError) as caught, oom_errors("teacher", [("teacher.batch_size", 8)], outer.append):
        raise MemoryError("2 GiB")
    assert (outer, inner) == ([], ["out of memory with 4 images: continuing with 2 at a time"])
    assert "out of memory in stage 'teacher': lower --set teacher.batch_size (now 8)" in str(caught.value)
    assert str(caught.value).endswith("(2 GiB)")
    with pytest.raises(KeyError), oom_errors("teacher", [], outer.append):
        raise KeyError("x")
