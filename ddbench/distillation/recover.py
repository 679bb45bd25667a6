"""The recover loop of the teacher-inversion methods: optimises the pixels of a unit for an objective of the method."""

from __future__ import annotations

import contextlib
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from itertools import accumulate, pairwise
from types import EllipsisType

import torch
from torch import Tensor

from ddbench.api.context import DistillTask
from ddbench.api.settings import RecoverSettings
from ddbench.api.teacher import Objective, Phase, Teacher
from ddbench.api.units import Unit
from ddbench.augment import crops
from ddbench.core import clock, interruption, seeds
from ddbench.core.checks import require_finite
from ddbench.core.errors import DDBenchError
from ddbench.distillation.objective import NetworkObjective, Terms, network_objective
from ddbench.nn import memory
from ddbench.training.schedules import cosine

REPORT_EVERY = 25
"""Steps between two reports, and between two checks of the loss for NaN and infinity."""
KEPT = "kept/"
"""Prefix of the names of a loss's own tensors in a checkpoint."""


def slot_noise(seed: int, unit: Unit, size: int) -> Tensor:
    """Draws standard normal noise for the slots of a unit.

    The noise of a slot depends only on the seed of the distilled set, the class and the index, not on the unit.

    Args:
        seed: The seed of the distilled set.
        unit: The unit.
        size: Height and width in pixels.

    Returns:
        Float32 [n, 3, size, size], one image per slot.

    Example:
        >>> from ddbench.api.units import Slot
        >>> alone, second = Unit(0, (Slot(2, 1),)), Unit(5, (Slot(0, 0), Slot(2, 1)))
        >>> torch.equal(slot_noise(7, alone, 8)[0], slot_noise(7, second, 8)[1])
        True
    """
    return torch.stack(
        [
            torch.randn(3, size, size, generator=seeds.generator("noise", seed, slot.label, slot.index))
            for slot in unit.slots
        ]
    )


def recover(
    task: DistillTask,
    unit: Unit,
    objective: Objective,
    initial: Tensor,
    settings: RecoverSettings,
    layer: int | None = None,
    networks: Sequence[Teacher] = (),
    phases: Sequence[Phase] = (),
) -> Tensor:
    """Optimises the pixels of a unit with Adam so that the outputs of networks minimise an objective.

    Every step draws a view of the images (random-resized-crop, flip, roll), passes it through a network, computes the
    objective, propagates its gradient to the pixels, takes an Adam step with a cosine learning rate, and clamps the
    pixels to the valid range. The last iterate is kept. Source: SRe2L and the released WMDD code.

    The draws depend only on the seed of the distilled set, the unit and the step, so a resumed run ends with the same
    bytes. If the unit does not fit into memory, it is passed through the network in parts. The parts, and a compiled
    network (`task.compile`), change the result only by rounding.

    Args:
        task: The task: teacher, data, device, checkpoint, progress.
        unit: The unit.
        objective: Computes the weighted loss terms from the output of a network; their sum is minimised.
        initial: The initial images, normalised, [n, 3, S, S].
        settings: Hyper-parameters.
        layer: The layer whose features are passed to the objective; None: the input of the classifier.
        networks: Networks on the task's device that take turns: step t uses the network t mod n. Empty: the teacher.
        phases: Parts of the loop. The learning rate follows one cosine over all of them. Empty: one of all images.

    Returns:
        The images, float32 [n, 3, S, S], pixel values in [0, 1].

    Raises:
        DDBenchError: The steps of the phases do not sum to those of the settings, or a phase leaves out an image of an
            earlier one. The loss, the images or the optimiser are not finite. For the loss, the error is raised within
            `REPORT_EVERY` steps and names the step and the terms. That state is not saved; the previous checkpoint
            stays.
        Stopped: A stop was requested (`ddbench.core.interruption`); the checkpoint is saved.
    """
    batcher, networks = memory.OOMBatcher("images"), networks or (task.teacher,)
    firsts, rows_of = _schedule(phases, len(initial), settings.steps, task.device)
    objectives: dict[tuple[int, torch.Size], NetworkObjective] = {}
    with contextlib.ExitStack() as opened:

        def objective_of(turn: int, shape: torch.Size) -> NetworkObjective:
            if (turn, shape) not in objectives:
                opening = network_objective(task, networks[turn], objective, layer, shape, turn)
                objectives[turn, shape] = opened.enter_context(opening)
            return objectives[turn, shape]

        def backward(images: Tensor, step: int) -> Terms:
            rows = rows_of[bisect_right(firsts, step) - 1]

            def attempt(images_at_once: int) -> Terms:
                images.grad = None  # of an attempt that ran out of memory
                view = draw_view(task, unit, images[rows], settings, step)
                return objective_of(step % len(networks), view.shape).backward(view, images_at_once, rows)

            return batcher(attempt, len(images[rows]))

        starts = {first: phase.start for first, phase in zip(firsts, phases, strict=False) if phase.start is not None}
        return optimise(task, unit, backward, initial, settings, starts=starts)


def _schedule(
    phases: Sequence[Phase], count: int, steps: int, device: torch.device
) -> tuple[list[int], list[Tensor | EllipsisType]]:
    """Returns the first step of each phase, and the rows of the images that it optimises."""
    if not phases:
        return [0], [...]
    lengths = [phase.steps for phase in phases]
    if sum(lengths) != steps or min(lengths) < 1:
        raise DDBenchError(f"recover: the phases have {lengths} steps, which must be positive and sum to {steps}")
    rows = [tuple(range(count)) if phase.images is None else phase.images for phase in phases]
    for number, (earlier, later) in enumerate(pairwise(rows), 2):
        if not set(earlier) <= set(later):
            raise DDBenchError(f"recover: phase {number} leaves out images of the phase before it")
    firsts = list(accumulate(lengths[:-1], initial=0))
    return firsts, [... if len(row) == count else torch.tensor(row, device=device) for row in rows]


def optimise(
    task: DistillTask,
    unit: Unit,
    backward: Callable[[Tensor, int], Terms],
    initial: Tensor,
    settings: RecoverSettings,
    state: MutableMapping[str, Tensor] | None = None,
    starts: Mapping[int, Callable[[Tensor], Tensor]] | None = None,
) -> Tensor:
    """Optimises the pixels of a unit with Adam, as `recover` does, for any loss of the images.

    Args:
        task: The task: data, device, checkpoint, progress.
        unit: The unit.
        backward: Propagates the gradient of the loss at a step into the images, and returns the detached terms.
        initial: The initial images, normalised, [n, 3, S, S].
        settings: Hyper-parameters.
        state: Tensors that `backward` keeps from step to step. Checkpoints contain them; a resumed run restores them.
        starts: Changes of the images before a step (`Phase.start`), by the number of the step.

    Returns:
        The images, float32 [n, 3, S, S], pixel values in [0, 1].

    Raises:
        DDBenchError: See `recover`.
        Stopped: See `recover`.
    """
    device = task.device
    mean = task.dataset.mean.to(device).view(1, 3, 1, 1)
    std = task.dataset.std.to(device).view(1, 3, 1, 1)
    low, high = (0 - mean) / std, (1 - mean) / std
    kept = {} if state is None else state
    starts = {} if starts is None else starts
    images, optimizer, first_step, earlier_seconds = _begin(task, initial, settings, kept, starts)
    unchecked: list[Terms] = []
    started = clock.now()
    for step in range(first_step, settings.steps):
        if step in starts:
            images, optimizer = _with_adam(starts[step](images.detach()), device, settings)
        optimizer.param_groups[0]["lr"] = cosine(step, settings.steps) * settings.learning_rate
        optimizer.zero_grad(set_to_none=True)
        unchecked.append(backward(images, step))
        optimizer.step()
        with torch.no_grad():
            images.clamp_(low, high)
        task.tick()

        done = step + 1
        reports = done % REPORT_EVERY == 0 or done == settings.steps
        saves = (done % task.checkpoint_every == 0 or interruption.requested()) and done < settings.steps
        if not (reports or saves):
            continue
        terms = _read_terms(unchecked, done, unit)
        if reports:
            task.report(done, settings.steps, loss=sum(terms.values()), **terms)
        if saves:
            seconds = earlier_seconds + clock.now() - started
            tensors = _finite_state(unit, images, optimizer, kept, done)
            task.checkpoint.save(tensors, {"step": done, "seconds": seconds})
            interruption.raise_if_requested()
    _finite_state(unit, images, optimizer, kept, settings.steps)
    task.timing.update(steps=settings.steps, seconds=earlier_seconds + clock.now() - started)
    return ((images.detach() * std) + mean).clamp(0, 1)


def draw_view(task: DistillTask, unit: Unit, images: Tensor, settings: RecoverSettings, step: int) -> Tensor:
    """Draws the random-resized-crop, flip and roll of a step. Differentiable in the images.

    Args:
        task: The task.
        unit: The unit.
        images: Normalised images [n, 3, S, S].
        settings: The settings of the views.
        step: The step, from 0.

    Returns:
        The view [n, 3, S, S].
    """
    generator, size = seeds.generator("recover", task.seed, unit.index, step), images.shape[-1]
    count = images.shape[0]
    draws = count if settings.crop_per_image else 1
    sizes = torch.tensor([[size, size]]).expand(draws, 2)
    boxes = crops.random_boxes(sizes, generator=generator, scale=settings.crop_scale(step))
    flips = (torch.rand(draws, generator=generator) < 0.5) & settings.flip
    view = crops.crop_resize(images, boxes if draws > 1 else boxes[0], size, flips.expand(count))
    if settings.jitter:
        lowest = -settings.jitter if settings.centred_jitter else 0
        down, right = torch.randint(lowest, settings.jitter + 1, (2,), generator=generator).tolist()
        view = torch.roll(view, shifts=(down, right), dims=(2, 3))
    return view


def _read_terms(unchecked: list[Terms], done: int, unit: Unit) -> dict[str, float]:
    """Checks the terms of the latest steps, up to step `done`, and clears the list. Synchronises with the device once.

    Returns the terms of the last step. Raises DDBenchError for the first term that is not finite.
    """
    flat = torch.stack([term.double() for terms in unchecked for term in terms.values()]).tolist()
    values: dict[str, float] = {}
    for step, terms in enumerate(unchecked, done - len(unchecked) + 1):
        values, flat = dict(zip(terms, flat, strict=False)), flat[len(terms) :]
        if not all(math.isfinite(value) for value in values.values()):
            raise DDBenchError(f"recover: the loss is not finite at step {step} of unit {unit.index}: {values}")
    unchecked.clear()
    return values


def _finite_state(
    unit: Unit, images: Tensor, optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor], step: int
) -> dict[str, Tensor]:
    """Returns images, optimiser's and loss's state after `step`. Raises DDBenchError if they are not finite."""
    state = optimizer.state[images]
    tensors = {"images": images.detach(), "exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}
    tensors |= {f"{KEPT}{name}": tensor for name, tensor in kept.items()}
    require_finite(f"recover, after step {step} of unit {unit.index}", tensors, "; a lower learning rate may help")
    return tensors


def _with_adam(
    initial: Tensor, device: torch.device, settings: RecoverSettings
) -> tuple[Tensor, torch.optim.Optimizer]:
    """Returns a copy of images on a device, and a new optimiser of it."""
    images = initial.to(device=device, dtype=torch.float32).clone().requires_grad_(True)
    return images, torch.optim.Adam([images], lr=settings.learning_rate, betas=settings.betas, fused=True)


def _begin(
    task: DistillTask,
    initial: Tensor,
    settings: RecoverSettings,
    kept: MutableMapping[str, Tensor],
    starts: Iterable[int],
) -> tuple[Tensor, torch.optim.Optimizer, int, float]:
    """Returns images, optimiser, the number of finished steps and the seconds they took. Restores `kept`."""
    saved = task.checkpoint.load()
    if saved is None:
        return *_with_adam(initial, task.device, settings), 0, 0.0
    tensors, meta = saved
    images, optimizer = _with_adam(tensors["images"], task.device, settings)
    done = int(meta["step"])
    adam_since = max((first for first in starts if first < done), default=0)
    for name, tensor in tensors.items():
        if name.startswith(KEPT):
            kept[name.removeprefix(KEPT)] = tensor.to(images.device, copy=True)
    optimizer.state[images] = {
        "step": torch.tensor(float(done - adam_since), device=images.device),
        "exp_avg": tensors["exp_avg"].to(images.device, copy=True),
        "exp_avg_sq": tensors["exp_avg_sq"].to(images.device, copy=True),
    }
    return images, optimizer, done, float(meta["seconds"])
