"""Estimates time, memory and disk of a run: the cost of its missing artifacts, times measurements on this device."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Container, Sequence

import psutil

from ddbench.api.cost import Cost, Passes
from ddbench.config.schema import Stem
from ddbench.core.text import bytes_text
from ddbench.pipeline.executor import Inline
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.probe import USUAL_BATCH, Probe

ANNOUNCED_SECONDS = 60.0
"""Longer work is announced before it starts."""
LONG_SECONDS = 3600.0
"""A table starts longer work only with `--yes`."""
WEIGHT_BYTES = 4
OPTIMIZER_BYTES = 12
"""Bytes of a trained parameter beside its weight: the gradient and two moments."""


class Estimate:
    """Adds up the estimated costs of pipelines. An artifact that several of them share counts once.

    The estimate is used for messages and is not recorded.

    Args:
        now: Clock in seconds, for the measurements.

    Attributes:
        seconds: Seconds of all pipelines that were added, by stage.
        disk: Bytes of the artifacts that they add to the cache.
        memory: Peak memory in bytes: of the process on a CPU, of the device on CUDA.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.disk = 0.0
        self.memory = 0.0
        self._counted: set[str] = set()
        self._probe = Probe(now)

    @property
    def total(self) -> float:
        """Seconds of all pipelines that were added."""
        return sum(self.seconds.values())

    @property
    def detail(self) -> str:
        """A line with the longest stage, memory and disk, after one with the time. Empty if there is no work.

        Example: `mostly teacher (9 min); about 1.2 GB of memory, 45.0 MB of disk`.
        """
        if not self.total:
            return ""
        stage, seconds = max(self.seconds.items(), key=lambda item: item[1])
        needs = f"about {bytes_text(self.memory)} of memory, {bytes_text(self.disk)} of disk"
        return f"mostly {stage} ({readable(seconds)}); {needs}"

    def new_parts(self, pipeline: Pipeline) -> dict[str, tuple[str, int]]:
        """Returns the missing (stage, part) pairs of a pipeline that no earlier pipeline adds, by artifact."""
        pairs = {f"{stage}/{pipeline.cache_key(stage, part)}": (stage, part) for stage, part in pipeline.missing()}
        return {name: pair for name, pair in pairs.items() if name not in self._counted}

    def add(self, pipeline: Pipeline, stages: Container[str] | None = None) -> float:
        """Adds a pipeline. Returns its seconds without the artifacts that earlier pipelines also need.

        Args:
            pipeline: The pipeline.
            stages: Only these stages count. None: all.
        """
        before = self.total
        for name, (stage, part) in self.new_parts(pipeline).items():
            if stages is None or stage in stages:
                self._counted.add(name)
                self.add_part(pipeline, stage, part)
        return self.total - before

    def add_part(self, pipeline: Pipeline, stage: str, part: int, share: float = 1.0) -> None:
        """Adds a share of a part of a stage."""
        cost = pipeline.graph[stage].cost(pipeline, part)
        per_image, num_bytes = self._probe.decoded_image(pipeline) if cost.decoded else (0.0, 0.0)
        stored = cost.stored_bytes + cost.decoded * num_bytes
        seconds = cost.decoded * per_image
        for passes in filter(lambda passes: passes.images, cost.passes):
            networks = passes.networks or _networks_of_method(pipeline)
            seconds += sum(self._seconds(pipeline, passes, network) for network in networks) / len(networks)
        self.seconds[stage] += share * seconds
        self.disk += stored + self._stored_weights(pipeline, cost)
        self.memory = max(self.memory, _occupied(pipeline) + self._memory(pipeline, cost))

    def _seconds(self, pipeline: Pipeline, passes: Passes, network: str) -> float:
        return passes.images * self._probe.seconds_per_image(pipeline, passes, network, _stem(pipeline, network))

    def _stored_weights(self, pipeline: Pipeline, cost: Cost) -> float:
        """Returns the bytes of the weights and of the features that an artifact holds."""
        sizes = [self._probe.size(pipeline, network, _stem(pipeline, network)) for network in cost.stored_networks]
        values = sum(size.parameters for size in sizes)
        if cost.stored_features:
            arch = pipeline.experiment.teacher.arch
            values += cost.stored_features * self._probe.size(pipeline, arch, _stem(pipeline, arch)).features
        return WEIGHT_BYTES * values

    def _memory(self, pipeline: Pipeline, cost: Cost) -> float:
        """Returns the bytes that the passes of a part need: weights, optimiser, and the activations of a batch."""
        needed = 0.0
        for passes in filter(lambda passes: passes.images, cost.passes):
            half = 0.5 if (passes.precision or pipeline.precision) == "bf16" else 1.0
            held = WEIGHT_BYTES + (OPTIMIZER_BYTES if passes.kind == "training" else 0)
            for network in passes.networks or _networks_of_method(pipeline):
                size = self._probe.size(pipeline, network, _stem(pipeline, network))
                image = 2 * size.largest if passes.kind == "forward" else size.activations
                batch = half * image * (passes.batch_size or USUAL_BATCH)
                needed = max(needed, held * size.parameters + batch)
        return needed


class Schedule:
    """The time that is left of a grid: the estimate of its other cells, scaled by the time that the first ones took.

    The estimate is that of one process on this machine, whichever executor computes the grid.

    Args:
        pipelines: The cells, in order.
        now: Clock in seconds.

    Attributes:
        estimate: The estimate of all cells.
        total: Estimated seconds of all cells.
        where: What computes in the estimate, for messages.
    """

    def __init__(self, pipelines: Sequence[Pipeline], now: Callable[[], float] = time.monotonic) -> None:
        self.estimate = Estimate()
        self._seconds = [self.estimate.add(pipeline) for pipeline in pipelines]
        self._is_inline = all(isinstance(pipeline.workspace.executor, Inline) for pipeline in pipelines)
        self.total = self.estimate.total
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


def _networks_of_method(pipeline: Pipeline) -> Sequence[str]:
    """Returns the networks that the method builds, else those of its teachers."""
    method = pipeline.method
    return tuple(method.networks()) or tuple(method.teacher_pool()) or (pipeline.experiment.teacher.arch,)


def _stem(pipeline: Pipeline, network: str) -> Stem:
    return pipeline.experiment.teacher.stem_of(network)


def _occupied(pipeline: Pipeline) -> int:
    """Returns the bytes that this process occupies now, before the work; none on the GPU."""
    return 0 if pipeline.device.type == "cuda" else int(psutil.Process().memory_info().rss)


def readable(value: float) -> str:
    """Returns seconds as text.

    >>> readable(50), readable(720), readable(12600)
    ('50 s', '12 min', '3.5 h')
    """
    if value < 90:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:.1f} h"
