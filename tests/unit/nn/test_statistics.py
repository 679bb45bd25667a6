"""Streamed statistics against one pass over all activations at once, in float64."""

import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from ddbench.core.errors import DDBenchError
from ddbench.nn.build import build_network
from ddbench.nn.statistics import collect
from ddbench.nn.taps import TappedNetwork

RAGGED = (5, 1, 8, 3)


def images(count: int = 17, size: int = 16) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 1.5 + 0.3


def in_batches(*sizes: int) -> list[Tensor]:
    return list(torch.split(images(sum(sizes)), list(sizes)))


@pytest.fixture(scope="module")
def teacher() -> TappedNetwork:
    network = build_network("resnet18", 5, 16, seed=3)
    with torch.no_grad():  # running statistics as after training, so that the layers' scales are the usual ones
        for _ in range(3):
            network(images(32))
    return TappedNetwork(network)


def pooled(teacher: TappedNetwork, batch: Tensor) -> list[Tensor]:
    """Float64 [C, images * positions] for every layer."""
    return [x.double().transpose(0, 1).flatten(1) for x in teacher(batch).bn_inputs]


def test_exact_equals_one_pass_over_everything_whatever_the_batches(teacher: TappedNetwork) -> None:
    everything = pooled(teacher, images())
    assert len(everything) == 20
    for sizes in (RAGGED, (17,), (1,) * 17):
        statistics = collect(teacher, in_batches(*sizes), "exact")
        for mean, variance, values in zip(statistics.bn_means, statistics.bn_vars, everything, strict=True):
            torch.testing.assert_close(mean.double(), values.mean(1), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(variance.double(), values.var(1, correction=0), rtol=1e-5, atol=1e-6)


def test_batch_mean_is_the_weighted_mean_of_within_batch_variances(teacher: TappedNetwork) -> None:
    statistics = collect(teacher, in_batches(*RAGGED), "batch-mean")
    exact = collect(teacher, in_batches(*RAGGED), "exact")
    batches = [pooled(teacher, batch) for batch in in_batches(*RAGGED)]
    for layer, (mean, variance) in enumerate(zip(statistics.bn_means, statistics.bn_vars, strict=True)):
        within = sum(n * b[layer].var(1, correction=0) for n, b in zip(RAGGED, batches, strict=True)) / 17
        torch.testing.assert_close(variance.double(), within, rtol=1e-5, atol=1e-6)
        assert torch.equal(mean, exact.bn_means[layer])
        assert (variance <= exact.bn_vars[layer]).all()
        assert (variance < exact.bn_vars[layer]).any()


def test_features_are_those_of_the_images_in_their_order(teacher: TappedNetwork) -> None:
    statistics = collect(teacher, in_batches(*RAGGED), "exact")
    assert statistics.features.shape == (17, 512)
    assert statistics.features.dtype == torch.float32
    torch.testing.assert_close(statistics.features, teacher(images()).features)
    assert not any(t.requires_grad for t in (statistics.features, *statistics.bn_means, *statistics.bn_vars))


def test_features_of_a_layer_come_with_the_same_moments(teacher: TappedNetwork) -> None:
    last, earlier = (collect(teacher, in_batches(*RAGGED), "exact", layer) for layer in (None, 7))
    assert earlier.features.shape == (17, 128)
    assert earlier.features.dtype == torch.float32
    torch.testing.assert_close(earlier.features, teacher(images(), layer=7).features)
    for name in ("bn_means", "bn_vars"):
        assert all(torch.equal(a, b) for a, b in zip(getattr(last, name), getattr(earlier, name), strict=True))
    with pytest.raises(DDBenchError, match="no layer 19"):
        collect(teacher, in_batches(*RAGGED), "exact", 19)


class FarFromZero(nn.Module):
    """A BatchNorm layer fed with values far from zero, where sums of squares in float32 lose the variance."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, batch: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(batch * 0.01 + 100).mean((2, 3)))
        return logits


def test_a_small_variance_beside_a_large_mean_is_kept() -> None:
    teacher = TappedNetwork(FarFromZero())
    statistics = collect(teacher, in_batches(*[8] * 8), "exact")
    (values,) = pooled(teacher, images(64))
    torch.testing.assert_close(statistics.bn_vars[0].double(), values.var(1, correction=0), rtol=1e-3, atol=0)


def test_batchnorm_over_vectors_has_one_position_an_image() -> None:
    teacher = TappedNetwork(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48), nn.Linear(48, 2)))
    statistics = collect(teacher, [images(17, 4)[:5], images(17, 4)[5:]], "exact")
    values = images(17, 4).flatten(1).double()
    torch.testing.assert_close(statistics.bn_means[0].double(), values.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(statistics.bn_vars[0].double(), values.var(0, correction=0), rtol=1e-5, atol=1e-6)


def test_a_network_without_batchnorm_gives_features_only() -> None:
    teacher = TappedNetwork(build_network("convnet-d3", 4, 16))
    statistics = collect(teacher, in_batches(*RAGGED), "exact")
    assert statistics.features.shape == (17, 512)
    assert statistics.bn_means == statistics.bn_vars == []


def test_batches_are_taken_one_at_a_time(teacher: TappedNetwork) -> None:
    alive: list[weakref.ref[Tensor]] = []

    def batches() -> Iterator[Tensor]:
        for _ in range(4):
            assert sum(reference() is not None for reference in alive) <= 1
            batch = images(2)
            alive.append(weakref.ref(batch))
            yield batch
            del batch

    collect(teacher, batches(), "exact")


def test_no_images_and_broken_weights_are_refused() -> None:
    network = build_network("resnet18", 4, 16)
    with pytest.raises(DDBenchError, match="at least one image"):
        collect(TappedNetwork(network), [], "exact")
    with torch.no_grad():
        network.get_parameter("layer2.0.conv1.weight")[0, 0, 0, 0] = torch.nan
    with pytest.raises(DDBenchError, match="not finite"):
        collect(TappedNetwork(network), [images(2)], "exact")
