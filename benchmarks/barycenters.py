"""Barycenters at the size of ImageNet-1K: n = 1300 features per class, d = 512, m = 50 images per class."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import ot
import torch
from measuring import Row, device, interleaved, seconds, write
from torch import Tensor

from ddbench.core import seeds
from ddbench.ot import exact
from ddbench.ot import lloyd as lloyd_module
from ddbench.ot.points import Barycenter

N, D, M = 1300, 512, 50
ROUNDS = 10
"""K of Algorithm 2 (section 5.2)."""
AT_ONCE = 10
"""Classes per batch of ours."""
CLASSES = 1000


def features(label: int) -> Tensor:
    """Returns features [N, D] of one synthetic class: twenty clusters of random sizes, at least 0, as after a ReLU."""
    draw = seeds.generator("benchmark", "barycenters", label)
    centres = torch.randn(20, D, generator=draw)
    member = torch.multinomial(torch.rand(20, generator=draw), N, replacement=True, generator=draw)
    return (centres[member] + 0.7 * torch.randn(N, D, generator=draw)).relu().to(device())


def plain(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs a plain implementation of Algorithm 2 with POT in float64: a step on the weights, then one on the points."""
    draw = np.random.default_rng(0)
    points, weights, real = z[draw.choice(len(z), M, replace=False)], np.full(M, 1 / M), np.full(len(z), 1 / len(z))
    for _ in range(ROUNDS):
        plan, log = ot.emd(weights, real, ot.dist(points, z), numItermax=10**7, log=True)
        beta = log["u"] - log["u"].mean()
        moved = weights - beta / (np.linalg.norm(beta) * M)
        ordered = np.sort(moved)[::-1]
        excess = (np.cumsum(ordered) - 1) / np.arange(1, M + 1)
        weights = np.maximum(moved - excess[np.nonzero(ordered > excess)[0][-1]], 0)
        mass = plan.sum(1)
        points[mass > 0] = (plan @ z)[mass > 0] / mass[mass > 0, None]
    return points, weights


def lloyd(class_features: list[Tensor]) -> list[Barycenter]:
    """Computes our barycenters of these classes."""
    draws = [seeds.generator("benchmark", "lloyd", label) for label in range(len(class_features))]
    return lloyd_module.barycenter_lloyd(class_features, M, draws)


def batches(count: int) -> Iterator[list[Tensor]]:
    """Yields the features of all classes, one batch of classes at a time."""
    for first in range(0, count, AT_ONCE):
        yield [features(label) for label in range(first, min(first + AT_ONCE, count))]


def measure(repetitions: int, classes: int = CLASSES) -> list[Row]:
    """Measures one class, a batch, and `classes` classes in batches; the agreement column shows both exact costs.

    The limit is one float32 product of points and features for each round of Algorithm 2.
    """
    real_features = [features(label) for label in range(AT_ONCE)]
    z = real_features[0].double().cpu().numpy()
    points, weights = map(torch.from_numpy, plain(z))
    (ours,) = lloyd(real_features[:1])
    theirs = exact.transport_cost(points, weights, real_features[0])
    cost = exact.transport_cost(ours.points, ours.weights, real_features[0])

    def products() -> None:
        for _ in range(ROUNDS):
            ours.points @ real_features[0].T

    runs = {
        "reference": lambda: plain(z),
        "one": lambda: lloyd(real_features[:1]),
        "batch": lambda: lloyd(real_features),
    }
    taken = interleaved({**runs, "limit": products}, repetitions, warm=1)
    reference, limit = taken["reference"], taken["limit"]
    case = f"n = {N}, d = {D}, m = {M}"
    rows = [
        Row("barycenter", f"{case}, one class", taken["one"], reference, limit, f"W_2^2 {cost:.2f}, not {theirs:.2f}"),
        Row("barycenter", f"{case}, of {AT_ONCE} at once", taken["batch"] / AT_ONCE, reference, limit),
    ]
    if classes:
        total = sum(seconds(lambda part=part: lloyd(part)) for part in batches(classes))  # type: ignore[misc]
        rows.append(Row("barycenters", f"{case}, {classes} classes", total, classes * reference, classes * limit))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--classes", type=int, default=CLASSES, help="classes of the whole set (0: leave it out)")
    arguments = parser.parse_args()
    write("barycenters", measure(arguments.repetitions, arguments.classes))
