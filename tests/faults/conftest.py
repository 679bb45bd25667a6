"""Faults are counted: a short form in every run of the tests, the whole with DDBENCH_FAULTS=full (`make faults`)."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

FULL = os.environ.get("DDBENCH_FAULTS") == "full"


@pytest.fixture(scope="session")
def counted() -> Callable[[int, int], int]:
    """How many faults to inject: `counted(short, full)`."""
    return lambda short, full: full if FULL else short


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Says a line of counts ("killed 50 times: 50 same records") at the end of the whole test run."""
    return lambda line: record_property("counts", line)
