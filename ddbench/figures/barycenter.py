"""Figure 1: circles and crosses, and their barycenters under KL divergence, MMD and the Wasserstein distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor

from ddbench.figures import style
from ddbench.losses.mmd import gaussian_kernel_mean, gaussian_mmd
from ddbench.ot.exact import transport_cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 200
"""Points of each distribution and of each barycenter."""
STEPS = 200
BANDWIDTHS = (0.1, 0.4, 1.6)
"""Widths of the MMD's Gaussian kernels: the finest tells outlines apart, the widest reaches across the plane."""
EDGE, PIXELS, BLUR = 2.2, 220, 0.05
"""Half the side of the plane that is shown, its pixels, and the width of the Gaussian that makes points a density."""
CAPTION = (
    "(a) Four distributions, uniform on outlines: {m} points each. (b) Minimiser of the summed KL(p\u2096 || q): the "
    "mean of their densities. (c) {m} points that minimise the summed squared MMD (kernel widths {widths}); "
    "over all distributions its minimiser is that same mean. (d) {m} points of equal mass that minimise the summed "
    "W\u2082\u00b2 (free support, exact plans). Intensity: density, each panel to its own maximum. Places and sizes "
    "are chosen here; the paper gives none."
)

Image = npt.NDArray[np.float64]


def circle(centre: tuple[float, float], radius: float, m: int = POINTS) -> Tensor:
    """m points [m, 2], evenly on the outline."""
    angle = 2 * torch.pi * torch.arange(m, dtype=torch.float64) / m
    return torch.stack([angle.cos(), angle.sin()], 1) * radius + torch.tensor(centre, dtype=torch.float64)


def cross(centre: tuple[float, float], reach: float, width: float, m: int = POINTS) -> Tensor:
    """m points [m, 2], evenly on the outline of an upright cross; `width` is half that of its bars."""
    quarter = torch.tensor([(reach, -width), (reach, width), (width, width)], dtype=torch.float64)
    turn = torch.tensor([(0.0, 1.0), (-1.0, 0.0)], dtype=torch.float64)
    corners = torch.cat([quarter @ torch.linalg.matrix_power(turn, k) for k in range(5)])[:13]
    along = torch.cat([torch.zeros(1), (corners[1:] - corners[:-1]).norm(dim=1).cumsum(0)]).numpy()
    where = np.arange(m) / m * along[-1]
    outline = [np.interp(where, along, corners[:, axis].numpy()) for axis in (0, 1)]
    return torch.from_numpy(np.stack(outline, 1)) + torch.tensor(centre, dtype=torch.float64)


def kl_barycenter(densities: Sequence[Image]) -> Image:
    """The density q that minimises sum_k KL(p_k || q): the arithmetic mean of the densities.

    For sum_k KL(p_k || q) = sum_k KL(p_k || mean) + K KL(mean || q). (The other direction, KL(q || p_k), gives the
    geometric mean, which is nothing where one of the densities is nothing.)
    """
    mean: Image = np.mean(densities, axis=0)
    return mean


def mmd_barycenter(
    measures: Sequence[Tensor], m: int, generator: Generator, bandwidths: Sequence[float] = BANDWIDTHS
) -> Tensor:
    """m points [m, 2] that minimise the sum of squared MMDs to the point clouds `measures` ([n, 2], equally many each).

    With mean embeddings mu, sum_k ||mu_q - mu_k||^2 is K ||mu_q - mu_mixture||^2 and a constant: the points are fitted
    to the mixture, from uniform in its bounding box, by Adam.
    """
    mixture = torch.cat(list(measures))
    low, high = mixture.amin(0), mixture.amax(0)
    points = low + (high - low) * torch.rand(m, 2, generator=generator, dtype=torch.float64)
    points.requires_grad_()
    optimizer = torch.optim.Adam([points], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    own = gaussian_kernel_mean(mixture, bandwidths)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.autograd.backward(gaussian_mmd(points, mixture, bandwidths, y_kernel_mean=own))
        optimizer.step()
        schedule.step()
    return points.detach()


def wasserstein_barycenter(measures: Sequence[Tensor]) -> Tensor:
    """Points [m, 2] of equal mass that minimise the sum of W_2^2 to the point clouds `measures` ([m, 2] each).

    POT's free-support solver (Cuturi and Doucet 2014), from each of the measures in turn; the best is kept.
    """
    import ot

    masses = [np.full(len(points), 1 / len(points)) for points in measures]
    locations = [points.numpy() for points in measures]
    found = [
        torch.from_numpy(ot.lp.free_support_barycenter(locations, masses, start.numpy(), b=masses[0], stopThr=1e-12))
        for start in measures
    ]
    return min(found, key=lambda points: summed_cost(points, measures))


def summed_cost(points: Tensor, measures: Sequence[Tensor]) -> float:
    """The sum of W_2^2 from equal masses on `points` to each of `measures`."""
    masses = torch.full((len(points),), 1 / len(points), dtype=torch.float64)
    return sum(transport_cost(points, masses, measure) for measure in measures)


def density(points: Tensor) -> Image:
    """The points as a density on the plane that is shown [PIXELS, PIXELS], sum 1: each a Gaussian of width BLUR."""
    axis = torch.linspace(-EDGE, EDGE, PIXELS, dtype=torch.float64)
    x, y = (torch.exp(-((axis[:, None] - points[None, :, k]) ** 2) / (2 * BLUR**2)) for k in (0, 1))
    found = y @ x.T
    shares: Image = (found / found.sum()).numpy()
    return shares


def draw() -> Figure:
    """The figure; it needs no data, and is the same every time."""
    from matplotlib.figure import Figure

    circles = [circle((-1.0, 1.0), 0.6), circle((1.1, 0.9), 0.8)]
    crosses = [cross((-1.0, -1.0), 0.75, 0.27), cross((1.1, -1.1), 0.6, 0.2)]
    measures = [*circles, *crosses]
    mmd = mmd_barycenter(measures, POINTS, Generator().manual_seed(0))
    sources = [density(torch.cat(circles)), density(torch.cat(crosses))]
    panels = [
        ("(a) circles and crosses", [*zip(sources, (style.BLUE, style.GREEN), strict=True)]),
        ("(b) KL divergence", [(kl_barycenter([density(points) for points in measures]), style.VERMILLION)]),
        ("(c) MMD", [(density(mmd), style.VERMILLION)]),
        ("(d) Wasserstein", [(density(wasserstein_barycenter(measures)), style.VERMILLION)]),
    ]
    figure = Figure(figsize=(10, 3.65), layout="constrained")
    for axes, (title, layers) in zip(figure.subplots(1, 4, sharey=True), panels, strict=True):
        axes.imshow(_tinted(layers), extent=(-EDGE, EDGE, -EDGE, EDGE), origin="lower", interpolation="none")
        axes.set_title(title, loc="left")
        axes.set_xlabel("x\u2081")
        axes.set_xticks([-2, 0, 2])
        axes.set_yticks([-2, 0, 2])
        axes.label_outer()
    figure.axes[0].set_ylabel("x\u2082")
    widths = ", ".join(f"{width:g}" for width in BANDWIDTHS)
    style.caption(figure, CAPTION.format(m=POINTS, widths=widths))
    return figure


def _tinted(layers: Sequence[tuple[Image, str]]) -> Image:
    """Densities as colours on white [PIXELS, PIXELS, 3]; where they overlap, inks are mixed."""
    from matplotlib.colors import to_rgb

    picture = np.ones((PIXELS, PIXELS, 3))
    for layer, colour in layers:
        picture *= 1 - layer[..., None] / layer.max() * (1 - np.array(to_rgb(colour)))
    return picture
