"""The state that a method or protocol must not change: teacher, global generators, memory of the device."""

from __future__ import annotations

import contextlib
import gc
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from ddbench.storage.artifacts import digest_of

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
OTHER_SEED = 20_240_229


def teacher_state(teacher: nn.Module) -> dict[str, object]:
    """Describes everything in a teacher that affects later stages.

    Args:
        teacher: The teacher network.

    Returns:
        Values that compare by equality, by a name for error messages: a digest of parameters and buffers, and the
        modules or parameters with hooks, in training mode, with `requires_grad` and with gradients.
    """
    modules = dict(teacher.named_modules())
    return {
        "its parameters and buffers": digest_of({name: value.cpu() for name, value in teacher.state_dict().items()}),
        "its hooks": {name: [len(getattr(module, kind)) for kind in HOOKS] for name, module in modules.items()},
        "its training mode": [name for name, module in modules.items() if module.training],
        "its requires_grad": [name for name, value in teacher.named_parameters() if value.requires_grad],
        "gradients on its parameters": [name for name, value in teacher.named_parameters() if value.grad is not None],
    }


def memory_in_use(device: torch.device) -> tuple[int, str]:
    """Measures the memory that tensors occupy on a device, after a garbage collection.

    Args:
        device: A CPU or a CUDA device.

    Returns:
        An amount and its unit: allocated "bytes" on CUDA, living "tensors" of this process on a CPU.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.memory_allocated(device), "bytes"
    # isinstance would read __class__, and some lazy modules import things on any attribute access.
    return sum(issubclass(type(candidate), torch.Tensor) for candidate in gc.get_objects()), "tensors"


@contextlib.contextmanager
def reseeded_global_generators() -> Iterator[None]:
    """Seeds the global generators of Python, NumPy and torch otherwise, and restores them afterwards."""
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
