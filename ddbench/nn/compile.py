"""The recover loop's network through `torch.compile`: where that pays, and going on without it where it fails."""

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
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddbench.api.settings import RecoverSettings
from ddbench.api.teacher import Output
from ddbench.config.schema import RuntimeConfig
from ddbench.nn import memory
from ddbench.nn.taps import TappedNetwork

if TYPE_CHECKING:
    from ddbench.config.experiment import Experiment

Forward = Callable[[Tensor], Output]

PAYS_FROM = 1.5e9
"""Pixels times steps of a distilled set from which on `auto` compiles.

A ResNet-18 takes about 40 s to compile on four CPU cores, twice that on one, and saves 0.1 to 0.2 s in a million pixels
and steps: it has cost nothing after 0.4e9. The margin is for other networks and machines, and for what is computed by
several workers, each of which compiles. CUDA has the same rule; it has not been measured.
"""

KEPT = 4
"""Programs that are kept in one process: for how many one code is compiled has a limit (8 in PyTorch)."""

_kept: list[tuple[object, ...]] = []


def resolve(experiment: Experiment, num_classes: int) -> RuntimeConfig:
    """The experiment's runtime with `compile` decided, by what is asked for and what there is to do and to do it with.

    Off for a method that does not use the recover loop. `on` stays on, whatever this machine has.
    """
    runtime, method = experiment.runtime, experiment.method
    if not isinstance(method, RecoverSettings):
        chosen = "off"
    elif runtime.compile == "auto":
        pixels = num_classes * (experiment.ipc or 0) * experiment.data.image_size**2
        chosen = "on" if pixels * method.steps >= PAYS_FROM and possible(runtime.device) else "off"
    else:
        return runtime
    return runtime.model_copy(update={"compile": chosen})


def possible(device: str) -> bool:
    """Whether there is what `torch.compile` needs: a C++ compiler and Python's headers, on CUDA Triton too."""
    compiler = shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))
    headers = Path(sysconfig.get_paths()["include"], "Python.h").is_file()
    if compiler is None or not headers or (device.startswith("cuda") and find_spec("triton") is None):
        return False
    return subprocess.run([compiler, "--version"], capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def network(
    teacher: TappedNetwork, layer: int | None, shape: torch.Size, precision: str, tell: Callable[[str], None]
) -> Iterator[Forward]:
    """`teacher.forward(images, layer=layer, moments=True)`, compiled for images of `shape` where the block uses it.

    Where that fails `tell` is told why, once, and it is not compiled. What was compiled for the same before is
    used again.
    """
    device = next(teacher.parameters()).device
    program = (weakref.ref(teacher), shape, precision, device, layer)
    # What is tapped for a block is another hook each time: compiled anew.
    if layer is not None or (program not in _kept and len(_kept) >= KEPT):
        torch.compiler.reset()
        _kept.clear()
    if program not in _kept:
        _kept.append(program)
    # It warns of machines without a GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    mode = "reduce-overhead" if device.type == "cuda" else None
    compiled: Callable[..., Output] | None = torch.compile(teacher.reading, fullgraph=True, dynamic=False, mode=mode)
    ran = False

    def forward(images: Tensor) -> Output:
        nonlocal compiled, ran
        if compiled is not None:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            try:
                output = compiled(images, True, layer, True)
            except Exception as error:
                if ran or memory.is_out_of_memory(error):
                    raise
                said = (str(error).strip().splitlines() or [""])[0]
                tell(f"torch.compile failed, going on without it: {type(error).__name__}: {said[:200]}")
                compiled = None
            else:
                ran = True
                return output
        return teacher.reading(images, True, layer, True)

    with contextlib.nullcontext() if layer is None else teacher.tapping(layer):
        yield forward
