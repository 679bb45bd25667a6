"""Where it is computed: device and precision by name, deterministic kernels, clocks and peak memory."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddbench.config.schema import RuntimeConfig
from ddbench.core.errors import DDBenchError


def resolve(runtime: RuntimeConfig) -> RuntimeConfig:
    """The same runtime with device and precision decided: CUDA where there is one; bf16 where it is computed fast.

    `compile` is decided where it is known what there is to do: `ddbench.nn.compile.resolve`.
    Raises DDBenchError for a CUDA device that is not there.
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
        precision = "bf16" if _fast_bf16(device) else "fp32"
    return runtime.model_copy(update={"device": device, "precision": precision})


def _fast_bf16(device: str) -> bool:
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(capabilities and capabilities())


def prepare(device: torch.device) -> None:
    """Asks the backend for the same numbers every time, and gives up only the speed that costs."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False
        torch.use_deterministic_algorithms(True, warn_only=True)


NO_KERNEL = r"(\S+) does not have a deterministic implementation"
"""How PyTorch warns of an operation that may give other bits the next time, where `prepare` asked for none such."""

_watching: list[set[str]] = []


@contextlib.contextmanager
def nondeterministic() -> Iterator[set[str]]:
    """Fills a set with the operations of the block for which the backend has no deterministic kernel.

    PyTorch's warnings of them are not shown, all others are.
    """
    always = ("always", re.compile(NO_KERNEL, re.IGNORECASE), Warning, None, 0)
    if always not in warnings.filters:  # else each would be told once a process
        warnings.filterwarnings("always", NO_KERNEL)
    others = warnings.showwarning

    def show(message: Warning | str, *where: Any, **more: Any) -> None:
        if told := re.match(NO_KERNEL, str(message)):
            for found in _watching:
                found.add(told[1])
        else:
            others(message, *where, **more)

    _watching.append(set())
    warnings.showwarning = show
    try:
        yield _watching[-1]
    finally:
        warnings.showwarning = others
        _watching.pop()


@contextlib.contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """bf16 autocast where `precision` is bf16; float32 without any change where it is fp32."""
    # Autocast's weight cache is emptied only when the outermost region ends: training that starts inside one (a
    # stage asked for by another) would go on with the first step's weights. Each weight is used once a pass anyway.
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
        yield


@dataclass
class Cost:
    """What a stage took: seconds, and peak bytes resident (of the process so far) and on the device."""

    seconds: float = 0.0
    peak_resident: int = 0
    peak_device: int = 0

    def as_dict(self) -> dict[str, float | int]:
        """For an artifact's meta."""
        return {"seconds": self.seconds, "peak_resident": self.peak_resident, "peak_device": self.peak_device}


@contextlib.contextmanager
def measured(device: torch.device) -> Iterator[Cost]:
    """Fills a Cost with what the block took, device work included."""
    cost = Cost()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    yield cost
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        cost.peak_device = int(torch.cuda.max_memory_allocated(device))
    cost.seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cost.peak_resident = peak if sys.platform == "darwin" else peak * 1024


def describe(device: torch.device, nondeterministic: Iterable[str] = ()) -> dict[str, Any]:
    """What a number was computed on: device name, threads, for a record.

    `nondeterministic`: operations without a deterministic kernel that were used. They are told of CUDA alone, where
    PyTorch says them; none: the same command gives the same bits.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    told = {"nondeterministic": sorted(nondeterministic)} if device.type == "cuda" else {}
    return {"type": device.type, "name": name, "threads": torch.get_num_threads(), **told}


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
