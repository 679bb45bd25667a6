"""Restores the global state of the process after a plugin's code has run, and reports what the code changed."""

from __future__ import annotations

import contextlib
import io
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

TORCH, NUMPY, RANDOM = "torch's global generator", "NumPy's global generator", "the generator of the module random"
CUDA = "CUDA's global generator"
DTYPE, THREADS, GRADIENTS = "torch's default dtype", "torch's number of threads", "torch's gradient mode"
DEVICE, MATMUL = "torch's default device", "torch's float32 matmul precision"
CONVOLUTION = "torch's float32 precision of convolutions"
FOLDER = "the working directory"
ONEDNN, DENORMAL = "torch's oneDNN kernels", "torch's flushing of denormal numbers"
DETERMINISTIC, BENCHMARK, TF32 = "torch's deterministic algorithms", "cudnn.benchmark", "cudnn.allow_tf32"

# The settings (backend, operation) of `fp32_precision` by name. A setting comes after those it inherits from.
_FP32_SETTINGS = {
    MATMUL: (("generic", "all"), ("mkldnn", "all"), ("cuda", "all"), ("mkldnn", "matmul"), ("cuda", "matmul")),
    CONVOLUTION: (("mkldnn", "conv"), ("mkldnn", "rnn")),
    TF32: (("cuda", "conv"), ("cuda", "rnn")),
}


def global_state(device: torch.device) -> dict[str, object]:
    """Reads the global state of this process: random generators, torch's defaults and modes, the working directory.

    Args:
        device: The device of the run; for CUDA, its generator and cuDNN's modes are included.

    Returns:
        Values by name; they compare by equality.
    """
    state: dict[str, object] = {
        TORCH: torch.get_rng_state().numpy().tobytes(),
        NUMPY: [part.tobytes() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        RANDOM: random.getstate(),
        DTYPE: torch.get_default_dtype(),
        THREADS: torch.get_num_threads(),
        GRADIENTS: torch.is_grad_enabled(),
        DEVICE: torch.get_default_device(),
        MATMUL: (_matmul_precision(), _fp32_precisions(MATMUL)),
        CONVOLUTION: _fp32_precisions(CONVOLUTION),
        FOLDER: _folder(),
        DETERMINISTIC: torch.are_deterministic_algorithms_enabled(),
        ONEDNN: torch._C._get_mkldnn_enabled(),
        DENORMAL: _flushes_denormal(),
    }
    if device.type == "cuda":
        state |= {
            CUDA: torch.cuda.get_rng_state(device).numpy().tobytes(),
            BENCHMARK: torch.backends.cudnn.benchmark,
            TF32: (_allow_tf32(), _fp32_precisions(TF32)),
        }
    return state


def _matmul_precision() -> str | None:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None  # set with `fp32_precision` to values that this function cannot express


def _flushes_denormal() -> bool:
    """Tries it, because torch can only set it. The smallest denormal number of float32 is 1.4e-45."""
    return not torch.full((1,), 1e-40, dtype=torch.float32, device="cpu").mul(1).item()


def _allow_tf32() -> bool | None:
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return None  # as above


def _fp32_precisions(name: str) -> list[str]:
    """Reads the settings of a name; a version of torch without `fp32_precision` has none."""
    get = getattr(torch._C, "_get_fp32_precision_getter", None)
    return [get(*setting) for setting in _FP32_SETTINGS[name]] if get else []


def _set_fp32_precisions(name: str, values: Sequence[str]) -> None:
    """Sets only those that differ: a setting that inherits its value must go on to do so."""
    for setting, value in zip(_FP32_SETTINGS[name], values, strict=False):
        if torch._C._get_fp32_precision_getter(*setting) != value:
            torch._C._set_fp32_precision_setter(*setting, value)


def _folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return ""  # the working directory was removed


def changed_names(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """Compares two results of `global_state`.

    Args:
        before: The earlier state.
        after: The later state.

    Returns:
        The names whose values differ.

    Example:
        >>> changed_names({"a": 1, "b": 2}, {"a": 1, "b": 3})
        ['b']
    """
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


@dataclass
class _ToStderr(io.TextIOBase):
    """A stdout that writes to stderr. `used` is true once something was written."""

    used: bool = field(default=False)

    def write(self, text: str) -> int:
        self.used = True
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


@contextlib.contextmanager
def restore_global_state(device: torch.device, callback: Callable[[list[str], bool], None]) -> Iterator[None]:
    """Runs a plugin's code: restores the global state that it changes and redirects its stdout to stderr.

    Args:
        device: The device of the run.
        callback: Called at the end, also after an error, with the names of the changed state and whether the code
            printed to stdout.
    """
    before, restores = global_state(device), _restores(device)
    modules = set(sys.modules)
    stdout = _ToStderr()
    try:
        with contextlib.redirect_stdout(stdout):
            yield
    finally:
        changed = changed_names(before, global_state(device))
        for name in changed:
            restores[name]()
        if set(sys.modules) - modules:
            # A library draws random numbers when it is imported for the first time: the plugin did not.
            changed = [name for name in changed if name not in (RANDOM, NUMPY)]
        callback(changed, stdout.used)


def _restores(device: torch.device) -> dict[str, Callable[[], object]]:
    """Returns functions that restore the present values, by the names of `global_state`."""
    generators = torch.get_rng_state(), np.random.get_state(), random.getstate()
    dtype, threads, gradients = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    deterministic, warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    onednn, flushes = torch._C._get_mkldnn_enabled(), _flushes_denormal()
    default_device, matmul, folder = torch.get_default_device(), _matmul_precision(), _folder()
    precisions = {name: _fp32_precisions(name) for name in _FP32_SETTINGS}

    def restore_matmul() -> None:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        _set_fp32_precisions(MATMUL, precisions[MATMUL])

    restores: dict[str, Callable[[], object]] = {
        TORCH: lambda: torch.set_rng_state(generators[0]),
        NUMPY: lambda: np.random.set_state(generators[1]),
        RANDOM: lambda: random.setstate(generators[2]),
        DTYPE: lambda: torch.set_default_dtype(dtype),
        THREADS: lambda: torch.set_num_threads(threads),
        GRADIENTS: lambda: torch.set_grad_enabled(gradients),
        # None, not "cpu": setting any device makes the creation of every tensor slower.
        DEVICE: lambda: torch.set_default_device(None if default_device.type == "cpu" else default_device),
        MATMUL: restore_matmul,
        CONVOLUTION: lambda: _set_fp32_precisions(CONVOLUTION, precisions[CONVOLUTION]),
        FOLDER: lambda: os.chdir(folder or "."),
        DETERMINISTIC: lambda: torch.use_deterministic_algorithms(deterministic, warn_only=warns),
        ONEDNN: lambda: torch._C._set_mkldnn_enabled(onednn),
        DENORMAL: lambda: torch.set_flush_denormal(flushes),
    }
    if device.type == "cuda":
        cuda_state, cudnn = torch.cuda.get_rng_state(device), torch.backends.cudnn
        benchmark, tf32 = cudnn.benchmark, _allow_tf32()

        def restore_tf32() -> None:
            if tf32 is not None:
                cudnn.allow_tf32 = tf32
            _set_fp32_precisions(TF32, precisions[TF32])

        restores |= {
            CUDA: lambda: torch.cuda.set_rng_state(cuda_state, device),
            BENCHMARK: lambda: setattr(cudnn, "benchmark", benchmark),
            TF32: restore_tf32,
        }
    return restores
