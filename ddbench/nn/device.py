"""Devices, precision and threads: resolution of names, deterministic kernels, autocast, time and peak memory."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from ddbench.config.schema import RuntimeConfig
from ddbench.core import clock
from ddbench.core.errors import DDBenchError


def resolve(runtime: RuntimeConfig) -> RuntimeConfig:
    """Decides the device and the precision of a runtime.

    "auto" means CUDA if a device is available, else the CPU; and bf16 if the device has fast bf16, else fp32.
    `ddbench.nn.compile.resolve` decides `compile`, which also depends on the run.

    Args:
        runtime: The requested runtime.

    Returns:
        The runtime with `device` and `precision` decided.

    Raises:
        DDBenchError: The requested CUDA device does not exist.

    Example:
        >>> resolve(RuntimeConfig(device="cpu", precision="fp32")).precision
        'fp32'
    """
    device = runtime.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(device.partition(":")[2] or 0) >= count:
            raise DDBenchError(f"--device {device}: this machine has {count} usable CUDA devices; use --device cpu")
    precision = runtime.precision
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(device) else "fp32"
    return runtime.model_copy(update={"device": device, "precision": precision})


def has_fast_bf16(device: str) -> bool:
    """Returns whether a device computes in bf16 without emulation."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def prepare(device: torch.device) -> None:
    """Configures the backend for reproducible results. This makes CUDA slower and changes nothing else.

    Args:
        device: The device of the run.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def default_threads(device: torch.device) -> int:
    """Returns the number of threads of a computation if `runtime.threads` is not set.

    Args:
        device: The device of the run.

    Returns:
        The number of PyTorch's threads, by default the number of cores of this machine. On CUDA, this number divided by
        the number of GPUs.
    """
    gpus = torch.cuda.device_count() if device.type == "cuda" else 1
    return max(1, torch.get_num_threads() // max(1, gpus))


@contextlib.contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Runs a block with a number of threads: those of PyTorch, BLAS and OpenMP, also in libraries loaded by the block.

    Args:
        count: The number of threads.

    Example:
        >>> with use_threads(1):
        ...     torch.get_num_threads()
        1
    """
    variable = "OMP_NUM_THREADS"  # a library reads it when it is loaded
    threads, setting = torch.get_num_threads(), os.environ.get(variable)
    torch.set_num_threads(count)
    os.environ[variable] = str(count)
    try:
        with _thread_pools(len(sys.modules)).limit(limits=count):
            yield
    finally:
        torch.set_num_threads(threads)
        os.environ.pop(variable)
        if setting is not None:
            os.environ[variable] = setting


@functools.lru_cache(maxsize=1)
def _thread_pools(modules: int) -> ThreadpoolController:
    """Finds the loaded libraries with threads. This takes milliseconds, so it is repeated only after an import."""
    return ThreadpoolController()


NO_KERNEL = r"(\S+) does not have a deterministic implementation"
"""PyTorch's warning, after `prepare`, about an operation whose result may differ between runs."""

_operations: list[set[str]] = []


@contextlib.contextmanager
def nondeterministic() -> Iterator[set[str]]:
    """Collects the operations of a block for which the backend has no deterministic kernel.

    PyTorch's warnings about them are not shown. All other warnings are shown.

    Yields:
        A set of operation names, filled while the block runs.
    """
    always = ("always", re.compile(NO_KERNEL, re.IGNORECASE), Warning, None, 0)
    if always not in warnings.filters:  # the default filter shows each warning only once in a process
        warnings.filterwarnings("always", NO_KERNEL)
    show_other = warnings.showwarning

    def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        if match := re.match(NO_KERNEL, str(message)):
            for operations in _operations:
                operations.add(match[1])
        else:
            show_other(message, *args, **kwargs)

    _operations.append(set())
    warnings.showwarning = show
    try:
        yield _operations[-1]
    finally:
        warnings.showwarning = show_other
        _operations.pop()


@contextlib.contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Runs a block under bf16 autocast, or unchanged.

    Args:
        device: The device of the block.
        precision: "bf16" for autocast, "fp32" for no change.

    Example:
        >>> with autocast(torch.device("cpu"), "bf16"):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.bfloat16
    """
    # The weight cache is disabled: autocast empties it only when the outermost region ends. So training inside such a
    # region (in a stage that another stage requests) would use the cached weights of its first step. The cache would
    # save nothing, because each weight is used once per pass.
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
        yield


@dataclass
class Cost:
    """The cost of a stage.

    Attributes:
        seconds: Wall-clock time without imports (`ddbench.core.clock`).
        peak_resident: Peak resident memory of the process so far, in bytes.
        peak_device: Peak memory on the CUDA device, in bytes; 0 on a CPU.
    """

    seconds: float = 0.0
    peak_resident: int = 0
    peak_device: int = 0

    def as_dict(self) -> dict[str, float | int]:
        """Returns the cost as a dictionary, for the metadata of an artifact."""
        return {"seconds": self.seconds, "peak_resident": self.peak_resident, "peak_device": self.peak_device}


@contextlib.contextmanager
def measured(device: torch.device) -> Iterator[Cost]:
    """Measures the cost of a block, including work on the device.

    Args:
        device: The device of the block.

    Yields:
        A `Cost`, filled when the block ends without an error.
    """
    cost = Cost()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with clock.running():
        start = clock.now()
        yield cost
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            cost.peak_device = int(torch.cuda.max_memory_allocated(device))
        cost.seconds = clock.now() - start
    cost.peak_resident = _peak_resident()


def _peak_resident() -> int:
    try:
        import resource
    except ImportError:  # a system without POSIX, where psutil knows the peak
        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def describe(device: torch.device, nondeterministic: Iterable[str] = ()) -> dict[str, Any]:
    """Describes the device of a computation, for a record.

    Args:
        device: The device.
        nondeterministic: Operations without a deterministic kernel that were used. They are recorded for CUDA only,
            because PyTorch reports them only there. An empty list means that the same command gives the same result bit
            by bit.

    Returns:
        Type and name of the device and number of CPU threads; on CUDA also the nondeterministic operations.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    operations = {"nondeterministic": sorted(nondeterministic)} if device.type == "cuda" else {}
    return {"type": device.type, "name": name, "threads": torch.get_num_threads(), **operations}


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
