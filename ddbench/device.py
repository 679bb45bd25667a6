"""Where it is computed: device and precision by name, deterministic kernels, clocks and peak memory."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddbench.config import RuntimeConfig
from ddbench.errors import DDBenchError


def resolve(runtime: RuntimeConfig) -> RuntimeConfig:
    """The same runtime with every `auto` decided: CUDA where there is one; bf16 where the device computes it fast.

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
    return RuntimeConfig(device=device, precision=precision)


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


def describe(device: torch.device) -> dict[str, Any]:
    """What a number was computed on: device name, threads, for a record."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {"type": device.type, "name": name, "threads": torch.get_num_threads()}


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
