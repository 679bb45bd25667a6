"""The measurements of the estimates: the size of a network, and the time of a pass from those of smaller ones."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ddbench.api.cost import Passes
from ddbench.nn.build import build_network
from ddbench.pipeline import probe
from ddbench.pipeline.probe import Probe, network_size

PIPELINE: Any = SimpleNamespace(
    device=SimpleNamespace(type="cpu"), precision="fp32", threads=1, info=SimpleNamespace(num_classes=2, image_size=8)
)


def test_the_size_of_a_network_is_that_of_its_layers() -> None:
    size = network_size(build_network("convnet-d1", 10, 16).to("meta"), 16)
    channels, pixels, pooled = 128, 16 * 16, 8 * 8
    assert size.parameters == channels * 3 * 9 + channels + 2 * channels + channels * pooled * 10 + 10
    assert (size.largest, size.features) == (4 * channels * pixels, channels * pooled)
    # Saved for the backward pass: the image, the outputs of convolution, norm and ReLU, and the features.
    least = 4 * (3 * pixels + 2 * channels * pixels + channels * pooled)
    assert least <= size.activations <= least + 2 * 4 * channels * pixels


@pytest.mark.parametrize("batch_size", [2, 3, 8, 100, 5000])
def test_the_time_of_a_large_batch_follows_from_smaller_ones(monkeypatch: pytest.MonkeyPatch, batch_size: int) -> None:
    measured: list[int] = []

    def loop(_: object, __: object, count: int, *___: object) -> list[float]:
        measured.append(count)
        return [0.02 + 0.005 * count]

    monkeypatch.setitem(cast(dict[str, Callable[..., list[float]]], probe._LOOPS), "training", loop)
    seconds = Probe().seconds_per_image(PIPELINE, Passes(1, batch_size=batch_size), "convnet-d1", "auto")
    assert seconds * batch_size == pytest.approx(0.02 + 0.005 * batch_size)
    assert sum(0.02 + 0.005 * count for count in measured) < probe.MOST_SECONDS


def test_two_batches_are_measured_however_slow_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    # A step of two images on a busy machine. Most of it is waiting, which a batch of 100 does not do 50 times.
    monkeypatch.setitem(
        cast(dict[str, Callable[..., list[float]]], probe._LOOPS),
        "training",
        lambda _, __, count, *___: [2.0 + 0.01 * count],
    )
    seconds = Probe().seconds_per_image(PIPELINE, Passes(1, batch_size=100), "convnet-d1", "auto")
    assert seconds * 100 == pytest.approx(3.0)


def test_passes_with_a_precision_of_their_own_are_measured_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def loop(_: object, __: object, count: int, ___: object, precision: str, ____: object) -> list[float]:
        return [count * {"fp32": 2.0, "bf16": 1.0}[precision]]

    monkeypatch.setitem(cast(dict[str, Callable[..., list[float]]], probe._LOOPS), "training", loop)
    run, measured = SimpleNamespace(**{**vars(PIPELINE), "precision": "bf16"}), Probe()
    seconds = [
        measured.seconds_per_image(run, Passes(1, precision=own), "convnet-d1", "auto") for own in (None, "fp32")
    ]
    assert seconds == [1.0, 2.0]
