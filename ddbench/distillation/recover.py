"""The one pixel-optimisation loop of the teacher-inversion methods, driven by an objective."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ddbench.api.context import DistillTask, Objective, Output
from ddbench.api.settings import RecoverSettings
from ddbench.api.units import Unit
from ddbench.augment import crops
from ddbench.core import interruption, seeds
from ddbench.core.checks import require_finite
from ddbench.core.errors import DDBenchError
from ddbench.nn import compile, memory
from ddbench.nn.batchnorm_moments import Moments, moments
from ddbench.nn.device import autocast
from ddbench.nn.taps import TappedNetwork

__all__ = ["Objective", "RecoverSettings", "learning_rate", "recover", "slot_noise"]


REPORT_EVERY = 25


Terms = dict[str, Tensor]


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
    (run seed, unit, step) alone, so a resumed run ends with the same bytes. Where memory runs out the images go through
    the teacher in parts, to the same numbers (`_Descent.in_parts`). With `task.compile` the teacher is compiled, which
    changes the numbers by rounding alone.
    Raises DDBenchError naming the step and the terms where the loss is no longer finite, within 25 steps, and where
    the images or the optimiser's state are not: neither is saved then, the checkpoint before it stays.
    """
    device, size = task.device, task.info.image_size
    mean = task.dataset.mean.to(device).view(1, 3, 1, 1)
    deviation = task.dataset.std.to(device).view(1, 3, 1, 1)
    low, high = (0 - mean) / deviation, (1 - mean) / deviation
    images = initial.to(device=device, dtype=torch.float32).clone().requires_grad_(True)
    optimizer = torch.optim.Adam([images], lr=settings.learning_rate, betas=settings.betas, fused=True)
    start, seconds = _resume(task, images, optimizer)
    fitting = memory.OOMBatcher("images")
    seen: list[Terms] = []

    def descend(step: int, together: int) -> Terms:
        draws = seeds.generator("recover", task.seed, unit.index, step)
        optimizer.zero_grad(set_to_none=True)
        view = _view(images, settings, settings.crop_scale(step), draws, size)
        terms = descent.at_once(view) if together == len(images) else descent.in_parts(view, together)
        return {name: term.detach() for name, term in terms.items()}

    clock = time.perf_counter()
    with _descent(task, objective, layer, images.shape) as descent:
        for step in range(start, settings.steps):
            optimizer.param_groups[0]["lr"] = learning_rate(step, settings)
            seen.append(fitting(partial(descend, step), len(images)))
            optimizer.step()
            with torch.no_grad():
                images.clamp_(low, high)
            task.tick()
            done = step + 1
            reports = done % REPORT_EVERY == 0 or done == settings.steps
            saves = (done % task.checkpoint_every == 0 or interruption.requested()) and done < settings.steps
            if not (reports or saves):
                continue
            values = _check(seen, done, unit)
            if reports:
                task.report(done, settings.steps, loss=sum(values.values()), **values)
            if saves:
                _save(task, unit, images, optimizer, done, seconds + time.perf_counter() - clock)
                interruption.raise_if_requested()
    _sound(unit, images, optimizer, settings.steps)
    task.timing.update(steps=settings.steps, seconds=seconds + time.perf_counter() - clock)
    return ((images.detach() * deviation) + mean).clamp(0, 1)


class _Descent:
    """Terms of one view after another, as `objective` has them; the gradient of their sum goes to the view.

    `forward` is the teacher with moments for BatchNorm inputs (`compiling.network`, or the teacher itself).
    """

    def __init__(self, task: DistillTask, objective: Objective, layer: int | None, forward: compile.Forward) -> None:
        self._task, self._objective, self._layer, self._forward = task, objective, layer, forward
        self._enough: bool | None = None
        """Whether moments are all that the objective asks for; None: it has not been asked."""

    def at_once(self, view: Tensor) -> Terms:
        """The terms of a view [n, 3, S, S]."""
        task, terms = self._task, None
        with autocast(task.device, task.precision):
            images = view.contiguous(memory_format=torch.channels_last)
            if self._enough is not False:
                output = self._forward(images)
                try:
                    terms = self._objective(output)
                except (AttributeError, TypeError):
                    if self._enough:
                        raise
                self._enough = terms is not None
            if terms is None:
                terms = self._objective(task.teacher(images, layer=self._layer))
        _sum(terms).backward()  # type: ignore[no-untyped-call]
        return terms

    def in_parts(self, view: Tensor, together: int) -> Terms:
        """As `at_once`, with `together` images at a time in the teacher: the same up to rounding, for twice the passes.

        In evaluation mode an image's outputs depend on that image alone. So the objective, which may be any function of
        the whole unit (one norm over the batch, statistics of a class), is given the outputs of a first pass without a
        graph, and its gradient in them goes back through a second one, part by part (gradient caching, Gao et al.
        2021). BatchNorm inputs would be most of the memory: their moments stand for them. Raises DDBenchError where the
        objective asks for more of them.
        """
        task = self._task

        def outputs(part: Tensor) -> list[Tensor]:
            with autocast(task.device, task.precision):
                images = part.contiguous(memory_format=torch.channels_last)
                output = task.teacher(images, layer=self._layer, moments=True)
                return [output.logits, output.features, *(value for x in output.bn_inputs for value in moments(x))]

        parts = torch.split(view.detach(), together)
        with torch.no_grad():
            columns = zip(*(outputs(part) for part in parts), strict=True)
        joined = [torch.cat(column).requires_grad_() for column in columns]
        logits, features, *values = joined
        pairs = zip(values[::2], values[1::2], strict=True)
        with autocast(task.device, task.precision):
            try:
                terms = self._objective(Output(logits, features, [Moments(*pair) for pair in pairs]))  # type: ignore[misc]
            except (AttributeError, TypeError) as error:
                raise DDBenchError(
                    "out of memory, and this method's objective needs more of the BatchNorm inputs than their moments: "
                    "a smaller batch, or a device with more memory, is needed"
                ) from error
        _sum(terms).backward()  # type: ignore[no-untyped-call]
        wanted = [torch.zeros_like(value) if value.grad is None else value.grad for value in joined]
        slices = zip(*(torch.split(value, together) for value in wanted), strict=True)
        gradients = []
        for part, gradient in zip(parts, slices, strict=True):
            pixels = part.requires_grad_()
            torch.autograd.backward(outputs(pixels), gradient)
            gradients.append(pixels.grad)
        view.backward(torch.cat(gradients))  # type: ignore[arg-type,no-untyped-call]
        return terms


@contextlib.contextmanager
def _descent(task: DistillTask, objective: Objective, layer: int | None, shape: torch.Size) -> Iterator[_Descent]:
    if not task.compile:
        yield _Descent(task, objective, layer, partial(task.teacher, layer=layer, moments=True))
        return
    teacher = task.teacher
    assert isinstance(teacher, TappedNetwork)
    with compile.network(teacher, layer, shape, task.precision, task.note) as forward:
        yield _Descent(task, objective, layer, forward)


def _sum(terms: Terms) -> Tensor:
    return torch.stack([term.float() for term in terms.values()]).sum()


def _check(seen: list[Terms], done: int, unit: Unit) -> dict[str, float]:
    """Looks at the terms of the steps up to `done`, forgets them, and gives the last: one wait for the device."""
    flat = torch.stack([term.double() for terms in seen for term in terms.values()]).tolist()
    values: dict[str, float] = {}
    first = done - len(seen) + 1
    for step, terms in enumerate(seen, first):
        values, flat = dict(zip(terms, flat, strict=False)), flat[len(terms) :]
        if not all(math.isfinite(value) for value in values.values()):
            raise DDBenchError(f"recover: the loss is not finite at step {step} of unit {unit.index}: {values}")
    seen.clear()
    return values


def _view(
    images: Tensor, settings: RecoverSettings, scale: tuple[float, float], generator: torch.Generator, size: int
) -> Tensor:
    count = images.shape[0]
    drawn = count if settings.crop_per_image else 1
    sizes = torch.tensor([[size, size]]).expand(drawn, 2)
    boxes = crops.random_boxes(sizes, generator=generator, scale=scale)
    flips = torch.rand(drawn, generator=generator) < 0.5
    view = crops.crop_resize(images, boxes if drawn > 1 else boxes[0], size, flips.expand(count))
    if settings.jitter:
        down, right = torch.randint(0, settings.jitter + 1, (2,), generator=generator).tolist()
        view = torch.roll(view, shifts=(down, right), dims=(2, 3))
    return view


def _sound(unit: Unit, images: Tensor, optimizer: torch.optim.Optimizer, step: int) -> dict[str, Tensor]:
    """Images and the optimiser's state after `step`. Raises DDBenchError where they are not finite."""
    state = optimizer.state[images]
    tensors = {"images": images.detach(), "exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}
    require_finite(f"recover, after step {step} of unit {unit.index}", tensors, "; a lower learning rate may help")
    return tensors


def _save(
    task: DistillTask, unit: Unit, images: Tensor, optimizer: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    task.checkpoint.save(_sound(unit, images, optimizer, step), {"step": step, "seconds": seconds})


def _resume(task: DistillTask, images: Tensor, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    found = task.checkpoint.load()
    if found is None:
        return 0, 0.0
    tensors, meta = found
    with torch.no_grad():
        images.copy_(tensors["images"])
    optimizer.state[images] = {
        "step": torch.tensor(float(meta["step"]), device=images.device),
        "exp_avg": tensors["exp_avg"].to(images.device, copy=True),
        "exp_avg_sq": tensors["exp_avg_sq"].to(images.device, copy=True),
    }
    return int(meta["step"]), float(meta["seconds"])
