"""The one pixel-optimisation loop of the teacher-inversion methods, driven by an objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddbench import seeds, stopping, views
from ddbench.device import autocast
from ddbench.distiller import Unit
from ddbench.errors import DDBenchError
from ddbench.models import Output
from ddbench.recover_settings import RecoverSettings

if TYPE_CHECKING:
    from ddbench.task import DistillTask

Objective = Callable[[Output], dict[str, Tensor]]
"""Loss terms by name, already weighted; their sum is minimised. Called inside autocast, once a step."""

__all__ = ["Objective", "RecoverSettings", "learning_rate", "recover", "slot_noise"]

REPORT_EVERY = 25


def slot_noise(seed: int, unit: Unit, size: int) -> Tensor:
    """Standard normal noise [n, 3, size, size], each image seeded by (run seed, class, index) alone."""
    return torch.stack(
        [
            torch.randn(3, size, size, generator=seeds.generator("noise", seed, slot.label, slot.index))
            for slot in unit.slots
        ]
    )


def learning_rate(step: int, settings: RecoverSettings) -> float:
    """Cosine from the base rate at step 0 towards 0 after the last (Table 7: cosine decay)."""
    return 0.5 * (1 + math.cos(math.pi * step / settings.steps)) * settings.learning_rate


def recover(
    task: DistillTask,
    unit: Unit,
    objective: Objective,
    initial: Tensor,
    settings: RecoverSettings,
    layer: int | None = None,
) -> Tensor:
    """Optimises the pixels of one unit with Adam and returns them, in [0, 1], float32 [n, 3, S, S].

    `initial` is in normalised space; `objective` is given the features of `layer`, as `TappedNetwork.forward` has it.
    Every step sees one random-resized-crop, flip and roll of the images; pixels are clamped to the valid range after
    each step; the last iterate is kept (design of SRe2L and of the released WMDD code). What is drawn depends on
    (run seed, unit, step) alone, so a resumed run ends with the same bytes.
    Raises DDBenchError naming the step and the terms where the loss is no longer finite.
    """
    device, size = task.device, task.info.image_size
    mean = task.dataset.mean.to(device).view(1, 3, 1, 1)
    deviation = task.dataset.std.to(device).view(1, 3, 1, 1)
    low, high = (0 - mean) / deviation, (1 - mean) / deviation
    images = initial.to(device=device, dtype=torch.float32).clone().requires_grad_(True)
    optimizer = torch.optim.Adam([images], lr=settings.learning_rate, betas=settings.betas)
    start, seconds = _resume(task, images, optimizer)
    clock = time.perf_counter()
    for step in range(start, settings.steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step, settings)
        draws = seeds.generator("recover", task.seed, unit.index, step)
        view = _view(images, settings, settings.crop_scale(step), draws, size)
        with autocast(device, task.precision):
            output = task.teacher(view.contiguous(memory_format=torch.channels_last), layer=layer)
            terms = objective(output)
        loss = torch.stack([term.float() for term in terms.values()]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            images.copy_(torch.maximum(torch.minimum(images, high), low))
        task.tick()
        done = step + 1
        reports = done % REPORT_EVERY == 0 or done == settings.steps
        saves = (done % task.checkpoint_every == 0 or stopping.requested()) and done < settings.steps
        if not (reports or saves):
            continue
        values = {name: float(term.detach()) for name, term in terms.items()}
        if not all(math.isfinite(value) for value in values.values()):
            raise DDBenchError(f"recover: the loss is not finite at step {done} of unit {unit.index}: {values}")
        if reports:
            task.report(done, settings.steps, loss=sum(values.values()), **values)
        if saves:
            _save(task, images, optimizer, done, seconds + time.perf_counter() - clock)
            stopping.stop()
    task.timing.update(steps=settings.steps, seconds=seconds + time.perf_counter() - clock)
    return ((images.detach() * deviation) + mean).clamp(0, 1)


def _view(
    images: Tensor, settings: RecoverSettings, scale: tuple[float, float], generator: torch.Generator, size: int
) -> Tensor:
    count = images.shape[0]
    drawn = count if settings.crop_per_image else 1
    sizes = torch.tensor([[size, size]]).expand(drawn, 2)
    boxes = views.random_boxes(sizes, generator=generator, scale=scale)
    flips = torch.rand(drawn, generator=generator) < 0.5
    view = views.crop_resize(images, boxes if drawn > 1 else boxes[0], size, flips.expand(count))
    if settings.jitter:
        down, right = torch.randint(0, settings.jitter + 1, (2,), generator=generator).tolist()
        view = torch.roll(view, shifts=(down, right), dims=(2, 3))
    return view


def _save(task: DistillTask, images: Tensor, optimizer: torch.optim.Optimizer, step: int, seconds: float) -> None:
    state = optimizer.state[images]
    task.checkpoint.save(
        {"images": images.detach(), "exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]},
        {"step": step, "seconds": seconds},
    )


def _resume(task: DistillTask, images: Tensor, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    found = task.checkpoint.load()
    if found is None:
        return 0, 0.0
    tensors, meta = found
    with torch.no_grad():
        images.copy_(tensors["images"])
    optimizer.state[images] = {
        "step": torch.tensor(float(meta["step"])),
        "exp_avg": tensors["exp_avg"].to(images.device, copy=True),
        "exp_avg_sq": tensors["exp_avg_sq"].to(images.device, copy=True),
    }
    return int(meta["step"]), float(meta["seconds"])
