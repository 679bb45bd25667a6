"""Measures short pieces of the work of a run on this device, for the estimates: the passes of its loops, and decoding.

The loops are those of the run, on random images. With images of zeros the arithmetic has slow denormal numbers.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from ddbench.api.cost import Passes
from ddbench.api.settings import RecoverSettings, TrainingSettings
from ddbench.api.teacher import Output
from ddbench.api.units import Slot, Unit
from ddbench.augment.views import epoch_views
from ddbench.config.schema import Stem
from ddbench.core import seeds
from ddbench.core.errors import DDBenchError
from ddbench.distillation.recover import recover
from ddbench.nn import device as devices
from ddbench.nn.batchnorm_moments import moments
from ddbench.nn.build import build_network
from ddbench.nn.layers import final_classifier
from ddbench.nn.taps import TappedNetwork
from ddbench.pipeline.stages.distill import Distill
from ddbench.storage.checkpoint import Checkpoint
from ddbench.training.batches import Batch
from ddbench.training.loop import fit
from ddbench.training.view_batches import view_batches

if TYPE_CHECKING:
    from ddbench.pipeline.pipeline import Pipeline

COUNTS = (2, 8, 32, 128)
"""Images of the measured passes, up to the batch size. BatchNorm in training mode accepts no single image."""
MOST_SECONDS = 1.2
"""The two smallest batches are measured, and a larger one only if that is expected to take no longer."""
ROUNDS = 2
"""Passes of a measurement, without the first one, which is not measured."""
LEARNING_RATE = 1e-6
"""Learning rate of the measured training steps."""
USUAL_BATCH = 100
DECODED = 16
"""Images that are decoded to measure the time of an image."""


@dataclass(frozen=True)
class NetworkSize:
    """The size of a network.

    Attributes:
        parameters: The number of its parameters.
        activations: The bytes of activations of one image, float32, that the backward pass needs.
        largest: The bytes of the largest activation of one image, float32.
        features: The width of the features.
    """

    parameters: int
    activations: int
    largest: int
    features: int


class Probe:
    """Measures passes on the device of a pipeline. Each combination is measured once.

    Args:
        now: Clock in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._seconds: dict[tuple[object, ...], float] = {}
        self._decoded: dict[tuple[object, ...], tuple[float, float]] = {}
        self._sizes: dict[tuple[object, ...], NetworkSize] = {}

    def seconds_per_image(self, pipeline: Pipeline, passes: Passes, network: str, stem: Stem) -> float:
        """Returns the seconds of a pass through one of the networks, divided by the images of the batch.

        The device of a grid on Ray may exist only in the cluster. The CPU is measured in that case.
        """
        kind, device, precision = passes.kind, pipeline.device, passes.precision or pipeline.precision
        if device.type == "cuda" and not torch.cuda.is_available():
            device, precision = torch.device("cpu"), "fp32"
        info = pipeline.info
        case = (kind, network, stem, info.image_size, info.num_classes, str(device), precision, pipeline.threads)

        def measured(count: int) -> float:
            if (*case, count) not in self._seconds:
                with devices.use_threads(pipeline.threads):
                    built = build_network(network, info.num_classes, info.image_size, stem)
                    times = _LOOPS[kind](pipeline, built, count, device, precision, self._now)
                self._seconds[*case, count] = statistics.median(times)
            return self._seconds[*case, count]

        # The time of a pass is affine in the number of images: each pass launches kernels and updates the weights.
        # Measure larger batches as long as it takes little time, and extrapolate from the two largest.
        batch_size = max(passes.batch_size or USUAL_BATCH, COUNTS[0])
        counts = [count for count in COUNTS if count < batch_size]
        if len(counts) < 2 or batch_size >= 2 * counts[-1]:
            counts.append(batch_size)
        points = [(counts[0], measured(counts[0]))]
        for count in counts[1:]:
            expected = count / points[-1][0] * points[-1][1] * (ROUNDS + 1)
            if len(points) > 1 and expected > MOST_SECONDS:
                break
            points.append((count, measured(count)))
        (fewer, before), (more, seconds) = points[-2:] if len(points) > 1 else [(0, 0.0), *points]
        return (seconds + (batch_size - more) * max(0.0, seconds - before) / (more - fewer)) / batch_size

    def decoded_image(self, pipeline: Pipeline) -> tuple[float, float]:
        """Returns the seconds in which one image of the dataset is decoded, and its mean bytes."""
        case = (pipeline.dataset.name, pipeline.experiment.data.stored_size)
        if case not in self._decoded:
            start = self._now()
            sizes = pipeline.dataset.decode_some(DECODED)
            count = max(1, len(sizes))
            self._decoded[case] = (self._now() - start) / count, sum(sizes) / count
        return self._decoded[case]

    def size(self, pipeline: Pipeline, network: str, stem: Stem) -> NetworkSize:
        """Returns the size of a network. It is built without data, on the meta device."""
        info = pipeline.info
        case = (network, stem, info.image_size, info.num_classes)
        if case not in self._sizes:
            built = build_network(network, info.num_classes, info.image_size, stem)
            self._sizes[case] = network_size(built.to("meta"), info.image_size)
        return self._sizes[case]


def network_size(network: nn.Module, image_size: int) -> NetworkSize:
    """Measures a network on the meta device with two images. BatchNorm in training mode accepts no single one."""
    saved: dict[int, int] = {}
    outputs: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            saved[tensor.untyped_storage()._cdata] = tensor.nbytes
            kept.append(tensor)
        return tensor

    def note(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs.append(output.nbytes)

    kept: list[Tensor] = []
    hooks = [module.register_forward_hook(note) for module in network.modules()]
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.empty(2, 3, image_size, image_size, device="meta"))
    for hook in hooks:
        hook.remove()
    try:
        features = final_classifier(network)[1].in_features
    except DDBenchError:  # a student needs no linear classifier
        features = 0
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return NetworkSize(parameters, sum(saved.values()) // 2, max(outputs) // 2, features)


def _training(
    pipeline: Pipeline, network: nn.Module, count: int, device: torch.device, precision: str, now: Callable[[], float]
) -> list[float]:
    """Returns the seconds of steps of the training loop, with random-resized-crops and cross-entropy."""
    times: list[float] = []
    size = pipeline.info.image_size
    pixels, labels = _pixels(count, size), torch.zeros(count, dtype=torch.long, device=device)

    def batches(epoch: int) -> list[Batch]:
        times.append(now())
        views = epoch_views(count, torch.tensor([size, size]), 0, epoch, count, image_size=size)
        drawn = view_batches(pixels.__getitem__, pipeline.dataset, views, device)
        return [Batch(batch.images, lambda logits: functional.cross_entropy(logits, labels)) for batch in drawn]

    settings = TrainingSettings(epochs=ROUNDS + 2, learning_rate=LEARNING_RATE, optimizer="adamw")
    fit(network, batches, settings, device, precision)
    return [after - before for before, after in pairwise(times)][1:]


def _on_pixels(
    pipeline: Pipeline, network: nn.Module, count: int, device: torch.device, precision: str, now: Callable[[], float]
) -> list[float]:
    """Returns the seconds of steps of the recover loop, with a loss of the features and of all BatchNorm moments."""
    times: list[float] = []
    unit = Unit(0, tuple(Slot(0, index) for index in range(count)))
    tapped = TappedNetwork(network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def objective(output: Output) -> dict[str, Tensor]:
        values = [value.float().square().mean() for x in output.bn_inputs for value in moments(x)]
        return {"outputs": sum(values, output.logits.float().logsumexp(1).mean())}

    with tempfile.TemporaryDirectory() as folder:
        task = replace(
            Distill().task(pipeline, 0, Checkpoint(Path(folder) / "checkpoint.safetensors")),
            _teacher=lambda: tapped,
            device=device,
            precision=precision,
            report=lambda *_, **__: None,
            tick=lambda: times.append(_synchronised(device, now)),
            checkpoint_every=10**9,
            compile=False,
        )
        recover(task, unit, objective, task.noise(unit), RecoverSettings(steps=ROUNDS + 1, jitter=0))
    return [after - before for before, after in pairwise(times)]


@torch.no_grad()
def _forward(
    pipeline: Pipeline, network: nn.Module, count: int, device: torch.device, precision: str, now: Callable[[], float]
) -> list[float]:
    """Returns the seconds of passes of the network in evaluation mode."""
    pixels = _pixels(count, pipeline.info.image_size)
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    times = [now()]
    for _ in range(ROUNDS + 1):
        with devices.autocast(device, precision):
            images = pipeline.dataset.normalise(pixels.to(device))
            network(images.contiguous(memory_format=torch.channels_last)).argmax(1)
        times.append(_synchronised(device, now))
    return [after - before for before, after in pairwise(times)][1:]


def _pixels(count: int, size: int) -> Tensor:
    """Returns random images, uint8 [count, 3, size, size]."""
    drawn = torch.randint(0, 256, (count, 3, size, size), generator=seeds.generator("probe"))
    return drawn.to(torch.uint8)


def _synchronised(device: torch.device, now: Callable[[], float]) -> float:
    """Returns the time when the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return now()


_LOOPS = {"training": _training, "pixels": _on_pixels, "forward": _forward}
