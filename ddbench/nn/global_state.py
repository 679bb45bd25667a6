"""What a plugin's code may not change: state that everybody in the process shares. It is put back, and named."""

from __future__ import annotations

import contextlib
import io
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

TORCH, NUMPY, RANDOM = "torch's global generator", "NumPy's global generator", "the generator of the module random"
CUDA = "CUDA's global generator"
DTYPE, THREADS, GRADIENTS = "torch's default dtype", "torch's number of threads", "torch's gradient mode"
DEVICE, MATMUL = "torch's default device", "torch's float32 matmul precision"
FOLDER = "the working directory"
DETERMINISTIC, BENCHMARK, TF32 = "torch's deterministic algorithms", "cudnn.benchmark", "cudnn.allow_tf32"


def global_state(device: torch.device) -> dict[str, object]:
    """What all code in this process shares, by name: generators, default type, modes. Values compare by equality."""
    state: dict[str, object] = {
        TORCH: torch.get_rng_state().numpy().tobytes(),
        NUMPY: str(np.random.get_state()),
        RANDOM: random.getstate(),
        DTYPE: torch.get_default_dtype(),
        THREADS: torch.get_num_threads(),
        GRADIENTS: torch.is_grad_enabled(),
        DEVICE: torch.get_default_device(),
        MATMUL: torch.get_float32_matmul_precision(),
        FOLDER: _folder(),
        DETERMINISTIC: torch.are_deterministic_algorithms_enabled(),
    }
    if device.type == "cuda":
        state |= {
            CUDA: torch.cuda.get_rng_state(device).numpy().tobytes(),
            BENCHMARK: torch.backends.cudnn.benchmark,
            TF32: torch.backends.cudnn.allow_tf32,
        }
    return state


def _folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return ""  # it was removed


def changed_names(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """The names whose values are not equal in both."""
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


@dataclass
class _Elsewhere(io.TextIOBase):
    """Takes what is printed to stdout to stderr; `used` says whether there was anything."""

    used: bool = field(default=False)

    def write(self, text: str) -> int:
        self.used = True
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


@contextlib.contextmanager
def restore_global_state(device: torch.device, tell: Callable[[list[str], bool], None]) -> Iterator[None]:
    """Runs a plugin's code: what it leaves changed for everybody is put back, what it prints goes to stderr.

    At the end, whether the block raises or not, `tell` gets the names of what was changed, and whether it printed.
    """
    before, restores = global_state(device), _restores(device)
    printed = _Elsewhere()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        changed = changed_names(before, global_state(device))
        for name in changed:
            restores[name]()
        tell(changed, printed.used)


def _restores(device: torch.device) -> dict[str, Callable[[], object]]:
    """By name of `global_state`, what puts the present value back."""
    generators = torch.get_rng_state(), np.random.get_state(), random.getstate()
    dtype, threads, gradients = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    deterministic, warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    chosen, matmul, folder = torch.get_default_device(), torch.get_float32_matmul_precision(), _folder()
    found: dict[str, Callable[[], object]] = {
        TORCH: lambda: torch.set_rng_state(generators[0]),
        NUMPY: lambda: np.random.set_state(generators[1]),
        RANDOM: lambda: random.setstate(generators[2]),
        DTYPE: lambda: torch.set_default_dtype(dtype),
        THREADS: lambda: torch.set_num_threads(threads),
        GRADIENTS: lambda: torch.set_grad_enabled(gradients),
        # None, not "cpu": with any device that is set, every new tensor takes a longer way.
        DEVICE: lambda: torch.set_default_device(None if chosen.type == "cpu" else chosen),
        MATMUL: lambda: torch.set_float32_matmul_precision(matmul),
        FOLDER: lambda: os.chdir(folder or "."),
        DETERMINISTIC: lambda: torch.use_deterministic_algorithms(deterministic, warn_only=warns),
    }
    if device.type == "cuda":
        drawn, cudnn = torch.cuda.get_rng_state(device), torch.backends.cudnn
        benchmark, tf32 = cudnn.benchmark, cudnn.allow_tf32
        found |= {
            CUDA: lambda: torch.cuda.set_rng_state(drawn, device),
            BENCHMARK: lambda: setattr(cudnn, "benchmark", benchmark),
            TF32: lambda: setattr(cudnn, "allow_tf32", tf32),
        }
    return found
