"""What a method or a protocol must leave as it was: global state, the teacher, the memory of the device."""

from __future__ import annotations

import contextlib
import gc
import random
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from ddbench.cache import digest_of

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def global_state(device: torch.device) -> dict[str, object]:
    """What all code in this process shares, by name: generators, default type, modes."""
    state: dict[str, object] = {
        "torch's global generator": torch.get_rng_state().numpy().tobytes(),
        "NumPy's global generator": str(np.random.get_state()),
        "the generator of the module random": random.getstate(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }
    if device.type == "cuda":
        state |= {
            "CUDA's global generator": torch.cuda.get_rng_state(device).numpy().tobytes(),
            "cudnn.benchmark": torch.backends.cudnn.benchmark,
            "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        }
    return state


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


def differing(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """The names whose values are not equal in both."""
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


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
