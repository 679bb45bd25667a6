"""Figure 1's barycenters against closed forms, and the figure itself: the same bytes every time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Generator, Tensor

from ddbench.figures.barycenter import (
    EDGE,
    circle,
    cross,
    density,
    kl_barycenter,
    mmd_barycenter,
    summed_cost,
    wasserstein_barycenter,
)
from ddbench.losses.mmd import gaussian_mmd

if TYPE_CHECKING:
    from conftest import Shell

Array = npt.NDArray[np.float64]


def cloud(m: int, seed: int) -> Tensor:
    return torch.randn(m, 2, generator=Generator().manual_seed(seed), dtype=torch.float64)


def kl(p: Array, q: Array) -> float:
    return float((p * np.log(p / q)).sum())


def as_set(points: Tensor) -> Tensor:
    """Rows in one order, so that clouds can be compared."""
    return torch.tensor(sorted(points.round(decimals=8).tolist()), dtype=torch.float64)


def test_the_mean_of_densities_minimises_the_summed_kl_divergence() -> None:
    rng = np.random.default_rng(0)
    densities = [rng.dirichlet(np.ones(9)).reshape(3, 3) for _ in range(4)]
    mean = kl_barycenter(densities)
    least = sum(kl(p, mean) for p in densities)
    for _ in range(20):
        q = rng.dirichlet(np.ones(9)).reshape(3, 3)
        # The identity that makes it the minimiser: what is lost by any other q is K KL(mean || q).
        assert math.isclose(sum(kl(p, q) for p in densities) - least, 4 * kl(mean, q), rel_tol=1e-9)


def test_mmd_points_meet_the_mixture_and_so_every_measure_together() -> None:
    measures = [cloud(6, 0) - 1, cloud(6, 1) + 1]
    mixture, widths = torch.cat(measures), (0.5, 2.0)

    def summed(points: Tensor) -> float:
        return sum(float(gaussian_mmd(points, measure, widths)) for measure in measures)

    # With as many points as the mixture has, the best are the mixture's own.
    actual = mmd_barycenter(measures, 12, Generator().manual_seed(3), widths)
    assert summed(actual) - summed(mixture) < 1e-3
    assert summed(cloud(12, 2)) - summed(mixture) > 0.1
    # Fitting the mixture is fitting their sum: the difference is the same for every cloud of points.
    rests = [summed(points) - 2 * float(gaussian_mmd(points, mixture, widths)) for points in (actual, cloud(12, 2))]
    assert math.isclose(rests[0], rests[1], rel_tol=1e-6)
    assert torch.equal(actual, mmd_barycenter(measures, 12, Generator().manual_seed(3), widths))


def test_the_wasserstein_barycenter_of_translated_copies_is_the_copy_in_the_middle() -> None:
    shape, shift = cloud(30, 0), torch.tensor([3.0, -1.0], dtype=torch.float64)
    actual = wasserstein_barycenter([shape, shape + shift])
    torch.testing.assert_close(as_set(actual), as_set(shape + shift / 2), rtol=0, atol=1e-6)
    # W_2^2 to either is the squared half of the way.
    assert math.isclose(
        summed_cost(actual, [shape, shape + shift]), 2 * float((shift / 2).square().sum()), rel_tol=1e-6
    )


def test_the_wasserstein_barycenter_of_concentric_circles_is_the_circle_of_mean_radius() -> None:
    actual = wasserstein_barycenter([circle((1.0, 0.0), 1.0, 40), circle((1.0, 0.0), 2.0, 40)])
    torch.testing.assert_close(as_set(actual), as_set(circle((1.0, 0.0), 1.5, 40)), rtol=0, atol=1e-6)


def test_a_cross_is_an_even_walk_along_its_outline() -> None:
    points = cross((0.0, 0.0), 3.0, 1.0, 96)  # an outline of 24: four points a unit
    torch.testing.assert_close((points.roll(-1, 0) - points).norm(dim=1), torch.full((96,), 0.25).double())
    x, y = points.abs().unbind(1)
    on_tip, on_side = torch.maximum(x, y) == 3, torch.minimum(x, y) == 1
    assert bool((on_tip | on_side).all())
    assert bool((torch.minimum(x, y) <= 1).all())
    quarter = torch.tensor([(0.0, 1.0), (-1.0, 0.0)], dtype=torch.float64)
    torch.testing.assert_close(as_set(points @ quarter), as_set(points))


def test_a_density_has_mass_1_about_its_points() -> None:
    points = torch.tensor([[-1.0, 0.5], [1.0, 0.5], [0.6, 0.8]], dtype=torch.float64)
    actual = density(points)
    axis = np.linspace(-EDGE, EDGE, len(actual))
    assert math.isclose(actual.sum(), 1.0)
    assert math.isclose((actual.sum(0) * axis).sum(), 0.2, abs_tol=1e-6)  # columns are x
    assert math.isclose((actual.sum(1) * axis).sum(), 0.6, abs_tol=1e-6)  # rows are y, from below


@pytest.mark.slow
def test_the_command_writes_the_same_bytes_twice(shell: Shell) -> None:
    first = shell("figure", "barycenter")
    assert first.out.splitlines() == [f"written: results/figures/barycenter.{form}" for form in ("svg", "png")]
    again = shell("figure", "barycenter", "--output", "again.png")
    assert (again.code, again.err) == (0, "")
    for form in ("svg", "png"):
        drawn = (shell.results / "figures" / f"barycenter.{form}").read_bytes()
        assert drawn == (shell.root / f"again.{form}").read_bytes()
    text = Path(shell.root / "again.svg").read_text(encoding="utf-8")
    for label in ("(a) circles and crosses", "(b) KL divergence", "(c) MMD", "(d) Wasserstein", "x\u2081", "x\u2082"):
        assert f">{label}</text>" in text
    assert "200 points each" in text
    assert "<dc:date>" not in text
