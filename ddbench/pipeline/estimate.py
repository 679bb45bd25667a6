"""How long a run will take: a short probe on this device, times the images that each stage puts through a network."""

from __future__ import annotations

import statistics
import time

import torch

from ddbench.core import seeds
from ddbench.nn.build import build_network
from ddbench.nn.device import autocast
from ddbench.pipeline.pipeline import Pipeline

PROBE_IMAGES = 32
PROBE_ROUNDS = 3


class Estimate:
    """Estimated seconds of what is still to do, shared stages counted once. Rough: for a warning, not for a record."""

    def __init__(self) -> None:
        self.total = 0.0
        self._counted: set[str] = set()
        self._per_image: dict[tuple[str, int], float] = {}

    def add(self, pipeline: Pipeline) -> float:
        """Seconds that `pipeline` needs beyond those added before."""
        images = 0.0
        for stage, part in pipeline.missing():
            name = f"{stage}/{pipeline.cache_key(stage, part)}"
            if name not in self._counted:
                self._counted.add(name)
                images += pipeline.graph[stage].image_passes(pipeline, part)
        seconds = images * self._pace(pipeline) if images else 0.0
        self.total += seconds
        return seconds

    def _pace(self, pipeline: Pipeline) -> float:
        network = (pipeline.experiment.teacher.arch, pipeline.dataset.info.image_size)
        if network not in self._per_image:
            self._per_image[network] = probe(pipeline)
        return self._per_image[network]


def seconds(pipelines: list[Pipeline]) -> float:
    """Estimated seconds of what all of them still have to do."""
    return sum(map(Estimate().add, pipelines))


def probe(pipeline: Pipeline) -> float:
    """Seconds that one image takes forward and backward through the teacher's network on this device."""
    config, info = pipeline.experiment.teacher, pipeline.dataset.info
    network = build_network(config.arch, info.num_classes, info.image_size, config.stem, 0)
    network = network.to(pipeline.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    # Not zeros: their products are denormal, and those are slow. The first round, which sets things up, is left out.
    shape = (PROBE_IMAGES, 3, info.image_size, info.image_size)
    images = torch.randn(shape, generator=seeds.generator("probe")).to(pipeline.device)
    times = []
    for _ in range(1 + PROBE_ROUNDS):
        start = time.perf_counter()
        with autocast(pipeline.device, pipeline.precision):
            loss = network(images).float().logsumexp(1).mean()
        loss.backward()
        loss.item()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]) / PROBE_IMAGES


def readable(value: float) -> str:
    """Seconds for a person: `50 s`, `12 min`, `3.5 h`."""
    if value < 90:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:.1f} h"
