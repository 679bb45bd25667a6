"""Estimates how long a run will take: image passes of the missing stages times the time of one pass on this device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Container, Sequence

import torch

from ddbench.core import seeds
from ddbench.nn.build import build_network
from ddbench.nn.device import autocast
from ddbench.pipeline.executor import Inline
from ddbench.pipeline.pipeline import Pipeline

ANNOUNCED_SECONDS = 60.0
"""Longer work is announced before it starts."""
LONG_SECONDS = 3600.0
"""A table starts longer work only with `--yes`."""
PROBE_IMAGES = 8
PROBE_ROUNDS = 3
PROBE_SECONDS = 3.0
"""No further round starts after this time."""


class Estimate:
    """Adds up the estimated seconds of pipelines. An artifact that several of them share counts once.

    The estimate is rough. It is used for a warning and is not recorded.

    Attributes:
        total: Seconds of all pipelines that were added.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self._counted: set[str] = set()
        self._seconds_per_image: dict[tuple[str, int], float] = {}

    def add(self, pipeline: Pipeline, stages: Container[str] | None = None) -> float:
        """Adds a pipeline. Returns its seconds without the artifacts that earlier pipelines also need.

        Args:
            pipeline: The pipeline.
            stages: Only these stages count. None: all.
        """
        images = 0.0
        for stage, part in pipeline.missing():
            if stages is not None and stage not in stages:
                continue
            name = f"{stage}/{pipeline.cache_key(stage, part)}"
            if name not in self._counted:
                self._counted.add(name)
                images += pipeline.graph[stage].image_passes(pipeline, part)
        return self.add_images(pipeline, images)

    def add_images(self, pipeline: Pipeline, images: float) -> float:
        """Adds image passes through the teacher's network of a pipeline. Returns their seconds."""
        seconds = images * self._pace(pipeline) if images else 0.0
        self.total += seconds
        return seconds

    def counts(self, pipeline: Pipeline, stage: str, part: int) -> bool:
        """Returns whether a part of a stage was added with an earlier pipeline."""
        return f"{stage}/{pipeline.cache_key(stage, part)}" in self._counted

    def _pace(self, pipeline: Pipeline) -> float:
        network = (pipeline.experiment.teacher.arch, pipeline.info.image_size)
        if network not in self._seconds_per_image:
            self._seconds_per_image[network] = probe(pipeline)
        return self._seconds_per_image[network]


class Schedule:
    """The time that is left of a grid: the estimate of its other cells, scaled by the time that the first ones took.

    The estimate is that of one process on this machine, whichever executor computes the grid.

    Args:
        pipelines: The cells, in order.
        now: Clock in seconds.

    Attributes:
        total: Estimated seconds of all cells.
        where: What computes in the estimate, for messages.
    """

    def __init__(self, pipelines: Sequence[Pipeline], now: Callable[[], float] = time.monotonic) -> None:
        estimate = Estimate()
        self._seconds = [estimate.add(pipeline) for pipeline in pipelines]
        self._is_inline = all(isinstance(pipeline.workspace.executor, Inline) for pipeline in pipelines)
        self.total = estimate.total
        self.where = "on this device" if self._is_inline else "in one process on this machine"
        self._start, self._now = now(), now

    def left(self, done: int) -> str:
        """Returns the time that is left, as text; empty if other processes compute the grid.

        Args:
            done: The number of cells that are finished.
        """
        if not self._is_inline:
            return ""
        expected, elapsed = sum(self._seconds[:done]), self._now() - self._start
        scale = elapsed / expected if expected else 1.0
        return f"about {readable(scale * sum(self._seconds[done:]))} left"


def probe(pipeline: Pipeline) -> float:
    """Measures the seconds that one image takes forward and backward through the teacher's network on this device.

    The device of a grid on Ray may exist only in the cluster. The CPU is measured in that case.
    """
    config, info = pipeline.experiment.teacher, pipeline.info
    device, precision = pipeline.device, pipeline.precision
    if device.type == "cuda" and not torch.cuda.is_available():
        device, precision = torch.device("cpu"), "fp32"
    network = build_network(config.arch, info.num_classes, info.image_size, config.stem, 0)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    # Use random images, because with zeros the arithmetic has slow denormal numbers. The first round is a warm-up and
    # is measured only if there is no time for another one.
    shape = (PROBE_IMAGES, 3, info.image_size, info.image_size)
    images = torch.randn(shape, generator=seeds.generator("probe")).to(device)
    times: list[float] = []
    while len(times) <= PROBE_ROUNDS and sum(times) < PROBE_SECONDS:
        start = time.perf_counter()
        with autocast(device, precision):
            loss = network(images).float().logsumexp(1).mean()
        loss.backward()
        loss.item()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:] or times) / PROBE_IMAGES


def readable(value: float) -> str:
    """Returns seconds as text.

    >>> readable(50), readable(720), readable(12600)
    ('50 s', '12 min', '3.5 h')
    """
    if value < 90:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:.1f} h"
