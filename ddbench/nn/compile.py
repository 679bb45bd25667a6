"""Compiles the teacher for the recover loop with `torch.compile` if it saves time. Falls back to eager on failure."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
import weakref
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from ddbench.api.teacher import Output
from ddbench.config.schema import RuntimeConfig
from ddbench.nn import memory
from ddbench.nn.taps import TappedNetwork

Forward = Callable[[Tensor], Output]

COMPILE_FROM = 1.5e9
"""Pixels of a distilled set times recover steps from which `auto` compiles.

A ResNet-18 takes about 40 s to compile on four CPU cores and twice that on one, and compiling saves 0.1 to 0.2 s per
million pixels and steps: it breaks even at 0.4e9. The margin is for other networks and machines, and for runs with
several workers, each of which compiles. CUDA uses the same rule; it has not been measured there.
"""

MAX_PROGRAMS = 4
"""Compiled programs kept in one process. PyTorch limits how often one code object is compiled (8 times)."""

_programs: list[tuple[object, ...]] = []


def resolve(runtime: RuntimeConfig, recover_steps: int | None, pixels: int) -> RuntimeConfig:
    """Decides `compile` of a runtime: "on" or "off".

    Args:
        runtime: The runtime with its device decided. "on" stays "on" even if this machine cannot compile.
        recover_steps: Steps of the method's recover loop; None: the method does not use it, so nothing is compiled.
        pixels: Pixels of the distilled set: images times height times width.

    Returns:
        The runtime with `compile` decided.

    Example:
        >>> resolve(RuntimeConfig(device="cpu", compile="auto"), recover_steps=100, pixels=10 * 64 * 64).compile
        'off'
    """
    if recover_steps is None:
        decision = "off"
    elif runtime.compile == "auto":
        decision = "on" if pixels * recover_steps >= COMPILE_FROM and possible(runtime.device) else "off"
    else:
        return runtime
    return runtime.model_copy(update={"compile": decision})


def possible(device: str) -> bool:
    """Tests whether this machine has what `torch.compile` needs.

    Args:
        device: Name of the device, as in `RuntimeConfig.device`.

    Returns:
        Whether a working C++ compiler and Python's headers are installed; on CUDA also Triton.
    """
    compiler = shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))
    headers = Path(sysconfig.get_paths()["include"], "Python.h").is_file()
    if compiler is None or not headers or (device.startswith("cuda") and find_spec("triton") is None):
        return False
    return subprocess.run([compiler, "--version"], capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def network(
    teacher: TappedNetwork, layer: int | None, shape: torch.Size, precision: str, callback: Callable[[str], None]
) -> Iterator[Forward]:
    """Compiles the teacher's forward pass for a block of code.

    The first call compiles. A program that was compiled before in this process for the same teacher, shape, precision,
    device and layer is reused.

    Args:
        teacher: The teacher, on its device.
        layer: Number of the layer that gives the features; None: the input of the classifier.
        shape: Shape of the images, [B, 3, S, S].
        precision: "fp32" or "bf16".
        callback: Called once with the reason if compiling fails; the block then runs in eager mode.

    Yields:
        `teacher.forward(images, layer=layer, moments=True)` as a function of the images.
    """
    device = next(teacher.parameters()).device
    program = (weakref.ref(teacher), shape, precision, device, layer)
    # `tap_layer` registers a new hook in each block, so a program that was compiled before cannot be reused.
    if layer is not None or (program not in _programs and len(_programs) >= MAX_PROGRAMS):
        torch.compiler.reset()
        _programs.clear()
    if program not in _programs:
        _programs.append(program)
    # This logger warns on machines without a GPU. The warning is irrelevant.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    mode = "reduce-overhead" if device.type == "cuda" else None
    compiled: Callable[..., Output] | None
    compiled = torch.compile(teacher.tapped_forward, fullgraph=True, dynamic=False, mode=mode)
    has_run = False

    def forward(images: Tensor) -> Output:
        nonlocal compiled, has_run
        if compiled is not None:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            try:
                output = compiled(images, True, layer, True)
            except Exception as error:
                if has_run or memory.is_out_of_memory(error):
                    raise
                reason = (str(error).strip().splitlines() or [""])[0]
                callback(f"torch.compile failed, continuing without it: {type(error).__name__}: {reason[:200]}")
                compiled = None
            else:
                has_run = True
                return output
        return teacher.tapped_forward(images, True, layer, True)

    with contextlib.nullcontext() if layer is None else teacher.tap_layer(layer):
        yield forward
