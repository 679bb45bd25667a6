"""Inputs of layers, and their statistics over channels and patches, against loops in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ddbench.core.errors import DDBenchError
from ddbench.nn import TappedNetwork, build_network, collect_inputs, convolutions, patch_moments, tap_inputs


def maps(count: int, seed: int, size: int = 8) -> Tensor:
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def teacher() -> TappedNetwork:
    return TappedNetwork(build_network("resnetap-10", num_classes=4, image_size=16).double())


@pytest.mark.parametrize(("size", "enlarged"), [(8, 8), (6, 8), (1, 4)])
def test_the_moments_of_a_patch_are_those_of_its_channels_and_positions(size: int, enlarged: int) -> None:
    x = maps(2, 0, size)
    result = patch_moments(x, 4)
    grown = functional.interpolate(x, (enlarged, enlarged), mode="bilinear") if size != enlarged else x
    corners = [(i, j) for i in range(0, enlarged, 4) for j in range(0, enlarged, 4)]
    for number, (i, j) in enumerate(corners):
        patch = grown[:, :, i : i + 4, j : j + 4].flatten(1)
        torch.testing.assert_close(result.mean[:, number], patch.mean(1))
        torch.testing.assert_close(result.variance[:, number], patch.var(1, correction=0))
    assert result.mean.shape == (2, len(corners))


def test_inputs_are_collected_and_the_network_is_unchanged(teacher: TappedNetwork) -> None:
    names = convolutions(teacher.network)
    assert any("shortcut" in name or "downsample" in name for name in names)
    hooks = {name: len(module._forward_pre_hooks) for name, module in teacher.network.named_modules()}
    images = maps(2, 1, 16).requires_grad_()
    with tap_inputs(teacher.network, names) as inputs:
        teacher(images, bn=False)
    assert list(inputs) == [name for name in inputs if name in names]
    assert inputs.keys() == set(names)
    assert torch.equal(inputs[names[0]], images)
    inputs[names[-1]].square().sum().backward()
    assert images.grad is not None
    assert images.grad.any()
    assert hooks == {name: len(module._forward_pre_hooks) for name, module in teacher.network.named_modules()}


@pytest.mark.parametrize(
    ("variance", "spread"),
    [
        ("exact", lambda parts: torch.cat(parts).var(correction=0)),
        ("batch-mean", lambda parts: sum(len(p) * p.var(correction=0) for p in parts) / sum(map(len, parts))),
        ("image-mean", lambda parts: sum(image.var(correction=0) for image in (*parts[0].chunk(3), parts[1])) / 4),
    ],
)
def test_real_statistics_are_those_of_all_images(
    teacher: TappedNetwork, variance: str, spread: Callable[[list[Tensor]], Tensor]
) -> None:
    batches, name = [maps(3, 1, 16), maps(1, 2, 16)], convolutions(teacher.network)[2]
    collected = collect_inputs(teacher, batches, [name], 4, variance)  # type: ignore[arg-type]
    inputs = []
    for batch in batches:
        with tap_inputs(teacher.network, [name]) as tapped, torch.no_grad():
            teacher(batch, bn=False)
        inputs.append(tapped[name])
    channels, patches = collected[name]
    for c in (0, 5):
        parts = [x[:, c].flatten() for x in inputs]
        assert float(channels.mean[c]) == pytest.approx(float(torch.cat(parts).mean()), rel=1e-5)
        assert float(channels.variance[c]) == pytest.approx(float(spread(parts)), rel=1e-5)
    columns = inputs[0].shape[-1] // 4
    for number in (0, columns):
        i, j = 4 * (number // columns), 4 * (number % columns)
        parts = [x[:, :, i : i + 4, j : j + 4].flatten() for x in inputs]
        assert float(patches.mean[number]) == pytest.approx(float(torch.cat(parts).mean()), rel=1e-5)
        assert float(patches.variance[number]) == pytest.approx(float(spread(parts)), rel=1e-5)


def test_no_images_are_refused(teacher: TappedNetwork) -> None:
    with pytest.raises(DDBenchError, match="at least one image"):
        collect_inputs(teacher, [], convolutions(teacher.network)[:1], 4, "exact")
