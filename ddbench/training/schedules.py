"""Learning-rate schedules: the factor that the base learning rate is multiplied with."""

import math
from collections.abc import Callable

Schedule = Callable[[int, int], float]
"""`schedule(step, steps)`: the factor of the learning rate in `step` (from 0) of `steps`. A step may be an epoch."""


def cosine(step: int, steps: int) -> float:
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


def step_at_half(step: int, steps: int) -> float:
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
