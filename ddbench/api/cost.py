"""What a part of a stage costs, for the estimates of time, memory and disk. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PassKind = Literal["training", "pixels", "forward"]
"""What follows a pass: a step of the network's optimiser, a step of the pixels' optimiser, or nothing."""


@dataclass(frozen=True)
class Passes:
    """Images that pass through networks.

    Attributes:
        images: How often an image passes.
        kind: `training`: forward, backward and a step of the network's optimiser. `pixels`: forward, backward to the
            images, and a step of the images. `forward`: forward only.
        networks: The networks, which share the images evenly. Empty: those that the method builds, else its teachers.
        batch_size: Images per pass. None: a usual number.
        precision: `fp32` or `bf16`. None: that of the run.
    """

    images: float
    kind: PassKind = "training"
    networks: tuple[str, ...] = ()
    batch_size: int | None = None
    precision: str | None = None


@dataclass(frozen=True)
class Cost:
    """The cost of a part of a stage.

    Attributes:
        passes: The images that pass through networks.
        decoded: Images that are decoded from files.
        stored_bytes: Bytes of its artifact, without weights and features.
        stored_networks: Networks whose weights the artifact holds.
        stored_features: Feature vectors of the teacher that the artifact holds.
    """

    passes: tuple[Passes, ...] = ()
    decoded: int = 0
    stored_bytes: float = 0.0
    stored_networks: tuple[str, ...] = ()
    stored_features: int = 0
