"""What a method or a protocol must leave as it was: global state, the teacher, the memory of the device."""

from __future__ import annotations

import contextlib
import gc
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from ddbench.storage.cache import digest_of

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def teacher_state(teacher: nn.Module) -> dict[str, object]:
    """What makes a teacher give the same numbers to the next one who asks, by name."""
    modules = dict(teacher.named_modules())
    return {
        "its parameters and buffers": digest_of({name: value.cpu() for name, value in teacher.state_dict().items()}),
        "its hooks": {name: [len(getattr(module, kind)) for kind in HOOKS] for name, module in modules.items()},
        "its training mode": [name for name, module in modules.items() if module.training],
        "its requires_grad": [name for name, value in teacher.named_parameters() if value.requires_grad],
        "gradients on its parameters": [name for name, value in teacher.named_parameters() if value.grad is not None],
    }


def alive(device: torch.device) -> tuple[int, str]:
    """What occupies the device, and its unit: bytes on CUDA, living tensors of this process on a CPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.memory_allocated(device), "bytes"
    # The type is asked, not the object: some objects import things when they are looked at.
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()), "tensors"


@contextlib.contextmanager
def other_global_generators() -> Iterator[None]:
    """The global generators as some other code would have left them; afterwards as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        random.seed(20_240_229)
        np.random.seed(20_240_229)
        torch.manual_seed(20_240_229)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
