"""Barycenters of one class of ImageNet-1K's size: n = 1300 features, d = 512, m = 50 images a class."""

from __future__ import annotations

import argparse

import numpy as np
import ot
import torch
from measuring import Row, device, interleaved, write
from torch import Tensor

from ddbench import seeds, transport

N, D, M = 1300, 512, 50
ROUNDS = 10
"""K of Algorithm 2 (section 5.2)."""
AT_ONCE = 10
"""Classes in one batch of ours."""


def features(label: int) -> Tensor:
    """Features of one made class [N, D]: twenty clusters of their own sizes, not negative, as behind a ReLU."""
    draw = seeds.generator("benchmark", "barycenters", label)
    centres = torch.randn(20, D, generator=draw)
    member = torch.multinomial(torch.rand(20, generator=draw), N, replacement=True, generator=draw)
    return (centres[member] + 0.7 * torch.randn(N, D, generator=draw)).relu()


def plain(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 2 as one would write it with POT in float64: a step on the weights, then one on the points."""
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


def measure(repetitions: int) -> list[Row]:
    """One class, and how many of ours go at once; the exact cost of both beside."""
    found = [features(label).to(device()) for label in range(AT_ONCE)]
    z = found[0].double().cpu().numpy()

    def ours(count: int) -> list[transport.Barycenter]:
        draws = [seeds.generator("benchmark", "lloyd", label) for label in range(count)]
        return transport.barycenter_lloyd(found[:count], M, draws)

    points, weights = map(torch.from_numpy, plain(z))
    mine = ours(1)[0]
    theirs = transport.transport_cost(points, weights, found[0])
    cost = transport.transport_cost(mine.points, mine.weights, found[0])
    taken = interleaved(
        {"reference": lambda: plain(z), "ours": lambda: ours(1), "many": lambda: ours(AT_ONCE)},
        repetitions,
        warm=1,
    )
    agreement = f"W_2^2 {cost:.2f}, reference {theirs:.2f}"
    case = f"n = {N}, d = {D}, m = {M}"
    return [
        Row("barycenter", f"{case}, one class", taken["ours"], taken["reference"], agreement=agreement),
        Row("barycenter", f"{case}, of {AT_ONCE} at once", taken["many"] / AT_ONCE, taken["reference"]),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    write("barycenters", measure(parser.parse_args().repetitions))
