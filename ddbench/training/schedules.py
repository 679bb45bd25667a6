"""Learning-rate schedules: the factor that the base learning rate is multiplied with."""

import math
from collections.abc import Callable

Schedule = Callable[[int, float], float]
"""`schedule(step, steps)`: the factor of the learning rate in `step` (from 0) of `steps`.

A step may be an epoch, and the last one may be shorter than the others: `steps` is then no whole number.
"""


def constant(step: int, steps: float) -> float:
    """Returns 1, the factor of a constant learning rate."""
    return 1.0


def cosine(step: int, steps: float) -> float:
    """Computes the factor of a cosine schedule: 0.5 (1 + cos(pi step / steps)).

    Args:
        step: The step or epoch, from 0.
        steps: The number of steps or epochs.

    Returns:
        The factor, 1 at step 0 and near 0 at the last step.

    Example:
        >>> [round(cosine(step, 4), 3) for step in range(4)]
        [1.0, 0.854, 0.5, 0.146]
    """
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def one_cycle(step: int, steps: float) -> float:
    """Computes the factor of a one-cycle schedule: a line from 0 to 1 in the first quarter, then a line to 0.

    It is evaluated in the middle of the step, so that few long steps (epochs) have no factor of 0. Source: Smith and
    Topin, Super-Convergence, 2018 (arXiv 1708.07120), with lines as in FFCV's and airbench's trainings.

    Args:
        step: The step or epoch, from 0.
        steps: The number of steps or epochs.

    Returns:
        The factor.

    Example:
        >>> [round(one_cycle(step, 8), 3) for step in range(8)]
        [0.25, 0.75, 0.917, 0.75, 0.583, 0.417, 0.25, 0.083]
    """
    passed = (step + 0.5) / steps
    return min(4 * passed, 4 / 3 * (1 - passed))


def half_cosine(step: int, steps: float) -> float:
    """Computes the factor of the first half of a cosine schedule: 0.5 (1 + cos(pi step / (2 steps))).

    Source: RDED (`LINs-lab/RDED:validation/main.py`).

    Args:
        step: The step or epoch, from 0.
        steps: The number of steps or epochs.

    Returns:
        The factor, 1 at step 0 and a little above 0.5 at the last step.

    Example:
        >>> [round(half_cosine(step, 4), 3) for step in range(4)]
        [1.0, 0.962, 0.854, 0.691]
    """
    return cosine(step, 2 * steps)


def smoothed(step: int, steps: float) -> float:
    """Computes the factor of EDC's smoothed schedule: half of a cosine, and a line to 0 in the last sixth.

    Up to step 5/6 steps it is `half_cosine`. After that it is the value of `half_cosine` there times 1 - step / steps,
    which begins at a sixth of that value. Source: EDC (`shaoshitong/EDC:Branch_ImageNet_10/train/direct_train.py`,
    `cos2` with `--st 2`).

    Args:
        step: The step or epoch, from 0.
        steps: The number of steps or epochs.

    Returns:
        The factor, 1 at step 0 and near 0 at the last step.

    Example:
        >>> [round(smoothed(step, 12), 3) for step in (0, 6, 10, 11)]
        [1.0, 0.854, 0.629, 0.052]
    """
    if 6 * step <= 5 * steps:
        return half_cosine(step, steps)
    return half_cosine(5, 6) * (1 - step / steps)


def with_warmup(warmup_steps: int, schedule: Schedule = cosine) -> Schedule:
    """Returns a schedule after a linear warm-up from 0.01 to 1, as in torchvision's reference scripts.

    Args:
        warmup_steps: The number of steps or epochs of the warm-up; 0 for none.
        schedule: The schedule of the other steps.

    Returns:
        The schedule. If the run is not longer than the warm-up, it does not reach `schedule`.

    Example:
        >>> [round(with_warmup(2)(step, 5), 3) for step in range(5)]
        [0.01, 0.505, 1.0, 0.75, 0.25]
    """

    def factor(step: int, steps: float) -> float:
        if step < warmup_steps:
            return 0.01 + 0.99 * step / warmup_steps
        return schedule(step - warmup_steps, steps - warmup_steps)

    return factor


def step_at_half(step: int, steps: float) -> float:
    """Computes the factor of a step schedule: 1 in the first half, then 0.1.

    Args:
        step: The step or epoch, from 0.
        steps: The number of steps or epochs.

    Returns:
        The factor.

    Example:
        >>> [step_at_half(step, 5) for step in range(5)]
        [1.0, 1.0, 1.0, 0.1, 0.1]
    """
    return 1.0 if 2 * step < steps else 0.1


def fifths_at_two_thirds(step: int, steps: float) -> float:
    """Computes the factor of a step schedule: 1, a fifth after two thirds, and a fifth of that after five sixths.

    Source: Minimax Diffusion (`vimar-gu/MinimaxDiffusion:train.py`, `MultiStepLR` with gamma 0.2).

    Args:
        step: The step or epoch, from 0.
        steps: The number of steps or epochs.

    Returns:
        The factor.

    Example:
        >>> [round(fifths_at_two_thirds(step, 6), 3) for step in range(6)]
        [1.0, 1.0, 1.0, 1.0, 0.2, 0.04]
    """
    return math.prod((0.2 for milestone in (2 * steps // 3, 5 * steps // 6) if step >= milestone), start=1.0)


def fifths_at_30_60_80(step: int, steps: float) -> float:
    """Computes the factor of a step schedule: 1, and a fifth of the previous factor after 30, 60 and 80 % of the steps.

    Source: Toneva et al. (`mtoneva/example_forgetting:run_cifar.py`: after 60, 120 and 160 of 200 epochs).

    Args:
        step: The step or epoch, from 0.
        steps: The number of steps or epochs.

    Returns:
        The factor.

    Example:
        >>> [round(fifths_at_30_60_80(step, 10), 3) for step in (2, 3, 6, 8)]
        [1.0, 0.2, 0.04, 0.008]
    """
    return float(0.2 ** sum(10 * step >= tenths * steps for tenths in (3, 6, 8)))


BY_NAME: dict[str, Schedule] = {"cosine": cosine, "one-cycle": one_cycle}
"""The schedules of `TrainingSettings.schedule`."""
