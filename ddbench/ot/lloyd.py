"""Optimal transport numerics: exact plans and costs, and Wasserstein-2 barycenters of one class's features.

Everywhere Z [n, d] are the real features of one class (mass 1/n each), B [m, d] the barycenter's points and w
[m] their weights on the simplex, m = images per class. Arithmetic is float64, but for Lloyd's; a barycenter
comes back in the dtype and on the device of the features that it was given. Plans are exact (POT's network simplex)
and computed on the CPU.
"""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ddbench.core.errors import DDBenchError
from ddbench.ot.points import Barycenter, check_count, check_finite

# Elements of the padded classes that Lloyd holds at a time: half a GiB of float32.
_MAX_BATCH_ELEMENTS = 2**27


# Dimensions of the random projection that Lloyd starts in.
_SKETCH = 64


# Seeds of all its starts together: where points are few the end depends on the start, where they are many it averages.
_SEEDS = 40


def barycenter_lloyd(
    features: Sequence[Tensor], m: int, generators: Sequence[Generator], iterations: int = 300
) -> list[Barycenter]:
    """Barycenters with free weights, by k-means, of many classes at once: the same problem in closed form.

    `features`: one [n_k, d] a class, on one device, with one of `generators` each, so that a class does not
    depend on the others. From greedy k-means++ seeds (Arthur and Vassilvitskii 2007), Lloyd steps until no
    feature changes its point, at most `iterations`: first in a random projection to 64 dimensions where there are
    more, from 40 / m starts (at least one), then the best of these in all dimensions. Arithmetic is in the type of
    the features. Weights are the shares of the nearest points. A point that is nearest to nothing moves to the
    feature farthest from its own point; where the distinct features are fewer than `m` it ends on a feature, with
    weight 0. The cost never rises from step to step. Raises DDBenchError on fewer features than `m` and on values
    that are not finite.
    """
    if len(features) != len(generators):
        raise DDBenchError(f"k-means needs one generator a class, got {len(generators)} for {len(features)} classes")
    for z in features:
        check_count(m, len(z))
    largest = max((len(z) * (z.shape[1] + 2 * m) for z in features), default=1)
    size = max(1, _MAX_BATCH_ELEMENTS // largest)
    found: list[Barycenter] = []
    for first in range(0, len(features), size):
        batch = slice(first, first + size)
        found += _lloyd(features[batch], m, generators[batch], iterations)
    return found


def _lloyd(features: Sequence[Tensor], m: int, generators: Sequence[Generator], iterations: int) -> list[Barycenter]:
    """Lloyd of a batch of classes padded to one length: z [k, n, d] and real [k, n], false on the padding."""
    # Centring changes no distance but saves the digits that a large common offset would cost.
    means = [z.mean(0) for z in features]
    for mean in means:
        check_finite(mean.unsqueeze(0), "features")  # it carries every NaN and infinity
    z = pad_sequence([z - mean for z, mean in zip(features, means, strict=True)], batch_first=True)
    counts = torch.tensor([len(z) for z in features], device=z.device)
    real = torch.arange(z.shape[1], device=z.device) < counts.unsqueeze(1)

    coarse = _sketch(z, generators)
    nearest, cost = _start(z, coarse, real, m, generators, iterations)
    for _ in range(1, _SEEDS // m):
        others, other_cost = _start(z, coarse, real, m, generators, iterations)
        better = other_cost < cost
        nearest, cost = others.where(better.unsqueeze(1), nearest), torch.minimum(other_cost, cost)
    # A CPU is as fast with one class at a time, and does not wait for the slowest of them.
    parts = torch.split(torch.arange(len(z)), 1 if z.device.type == "cpu" else len(z))
    found = [_descend(z[part], real[part], nearest[part], m, iterations) for part in parts]
    points, nearest = (torch.cat(column) for column in zip(*found, strict=True))
    return [
        Barycenter(points[k] + means[k], torch.bincount(nearest[k, : len(mine)], minlength=m).to(mine) / len(mine))
        for k, mine in enumerate(features)
    ]


def _start(
    z: Tensor, coarse: Tensor, real: Tensor, m: int, generators: Sequence[Generator], iterations: int
) -> tuple[Tensor, Tensor]:
    """What each feature belongs to [k, n] after Lloyd of `coarse`, and what that costs in `z`, up to a constant [k]."""
    races = [
        # As exponential_ draws them, but in a third of the time.
        -torch.rand(m, int(count), generator=generator, dtype=z.dtype).log()
        for count, generator in zip(real.sum(1), generators, strict=True)
    ]
    times = torch.stack([nn.functional.pad(race, (0, real.shape[1] - race.shape[1])) for race in races], 1)
    nearest = _nearest(_rows(coarse, kmeans_plus_plus(coarse, real, times.to(z.device))), coarse)
    nearest = _descend(coarse, real, nearest, m, iterations)[1]
    sums, sizes = _sums(z, real, nearest, m)
    # Of a feature's squares, those about the mean are all but the mean's own.
    return nearest, -(sums.square().sum(-1, keepdim=True) / sizes.clamp_min(1)).sum((1, 2))


def _sketch(z: Tensor, generators: Sequence[Generator]) -> Tensor:
    """`z` [k, n, d] along random directions, [k, n, 64] (Johnson and Lindenstrauss 1984); itself where d is less."""
    d = z.shape[2]
    if d <= _SKETCH:
        return z
    directions = [torch.randn(d, _SKETCH, generator=generator) for generator in generators]
    return z @ torch.stack(directions).to(z)


def _descend(z: Tensor, real: Tensor, nearest: Tensor, m: int, iterations: int) -> tuple[Tensor, Tensor]:
    """Lloyd steps from what each feature belongs to, `nearest` [k, n]: points [k, m, d], and `nearest` to them."""
    points = _means(z, real, nearest, m)
    for _ in range(iterations):
        before, nearest = nearest, _nearest(points, z)
        if torch.equal(nearest.where(real, 0), before.where(real, 0)):
            break
        points = _means(z, real, nearest, m)
    return points, nearest


def _means(z: Tensor, real: Tensor, nearest: Tensor, m: int) -> Tensor:
    """The points [k, m, d]: means of their features; one without any takes the place of the farthest feature."""
    sums, sizes = _sums(z, real, nearest, m)
    points, empty = sums / sizes.clamp_min(1), sizes == 0
    if bool(empty.any()):
        distances = (z - _rows(points, nearest)).square().sum(-1).where(real, -1.0)
        farthest = distances.argsort(dim=1, descending=True, stable=True)[:, :m]
        rank = (empty.squeeze(-1).long().cumsum(1) - 1).clamp_min(0)
        points = torch.where(empty, _rows(z, farthest.gather(1, rank)), points)
    return points


def _sums(z: Tensor, real: Tensor, nearest: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Sum [k, m, d] and number [k, m, 1] of the features that belong to each point."""
    k, n, d = z.shape
    rows = (nearest + m * torch.arange(k, device=z.device).unsqueeze(1)).where(real, k * m).flatten()
    sums = z.new_zeros(k * m + 1, d).index_add_(0, rows, z.reshape(k * n, d))
    sizes = torch.bincount(rows, minlength=k * m + 1)
    return sums[:-1].view(k, m, d), sizes[:-1].view(k, m, 1)


def _nearest(points: Tensor, z: Tensor) -> Tensor:
    """Index of the nearest point of each feature [k, n]; anything on the padding."""
    # The feature's own norm changes nothing; and min is faster than argmin.
    norms = points.square().sum(-1, keepdim=True)
    return torch.baddbmm(norms, points, z.transpose(1, 2), alpha=-2).min(1).indices


def _rows(z: Tensor, indices: Tensor) -> Tensor:
    """Rows `indices` [k, j] of `z` [k, n, d], class by class: [k, j, d]."""
    return z.gather(1, indices.unsqueeze(-1).expand(-1, -1, z.shape[-1]))


def kmeans_plus_plus(z: Tensor, real: Tensor, times: Tensor) -> Tensor:
    """Greedy k-means++ seeds, as indices [k, m]: of 2 + ln m features drawn, the one that lowers the cost most.

    Features are drawn with probability proportional to their squared distance to the seeds, by a race: of exponential
    `times` [m, k, n], divided by that distance, a feature's is least with just this probability. (A search in the
    cumulative sum would do as well, but that sum is not deterministic on CUDA.) Once every feature is covered the seed
    is the first feature.
    """
    m = len(times)
    norms = z.square().sum(-1)
    distances, bound = real.to(z.dtype), z.new_zeros(real.shape).masked_fill(real, torch.inf)
    trials = min(2 + int(math.log(m)), z.shape[1])
    seeds: list[Tensor] = []
    for j in range(m):
        arrival = (times[j] / distances).topk(trials if j else 1, dim=1, largest=False)
        reachable = arrival.values.isfinite()
        # Where fewer features are left than trials, the others repeat the first: never the padding.
        drawn = arrival.indices.where(reachable, arrival.indices[:, :1].where(reachable[:, :1], 0))
        reached = torch.baddbmm(norms.unsqueeze(1), _rows(z, drawn), z.transpose(1, 2), alpha=-2)
        reached += norms.gather(1, drawn).unsqueeze(2)
        # A seed must not be drawn again for the rounding that the expansion of its distance to itself leaves.
        reached.scatter_(2, drawn.unsqueeze(2), 0.0)
        torch.minimum(reached, bound.unsqueeze(1), out=reached).clamp_min_(0)
        best = reached.sum(2).argmin(1, keepdim=True)
        distances = bound = _rows(reached, best).squeeze(1)
        seeds.append(drawn.gather(1, best))
    return torch.cat(seeds, dim=1)
