"""The state that a method or protocol must not change: teacher, global generators, memory of the device."""

from __future__ import annotations

import contextlib
import gc
import random
from collections.abc import Iterator

import numpy as np
import torch

OTHER_SEED = 20_240_229


def memory_in_use(device: torch.device) -> tuple[int, str]:
    """Measures the memory that tensors occupy on a device, after a garbage collection.

    Args:
        device: A CPU or a CUDA device.

    Returns:
        An amount and its unit: allocated "bytes" on CUDA, existing "tensors" of this process on a CPU.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.memory_allocated(device), "bytes"
    # isinstance reads __class__, and some lazy modules start imports on any attribute access.
    return sum(issubclass(type(candidate), torch.Tensor) for candidate in gc.get_objects()), "tensors"


@contextlib.contextmanager
def reseeded_global_generators() -> Iterator[None]:
    """Reseeds the global generators of Python, NumPy and torch for a block, and restores them afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        random.seed(OTHER_SEED)
        np.random.seed(OTHER_SEED)
        torch.manual_seed(OTHER_SEED)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
