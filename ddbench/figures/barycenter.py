"""Figure 1: barycenters of circles and crosses under KL divergence, MMD and the Wasserstein distance."""

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
"""Widths of the Gaussian kernels of the MMD: the smallest resolves outlines, the largest spans the plane."""
EDGE, PIXELS, BLUR = 2.2, 220, 0.05
"""Half the side of the plane in the figure, its side in pixels, and the width of the Gaussian at each point."""
CAPTION = (
    "(a) Four distributions, uniform on outlines: {m} points each. (b) Minimiser of the summed KL(p\u2096 || q): the "
    "mean of their densities. (c) {m} points that minimise the summed squared MMD (kernel widths {widths}); "
    "over all distributions its minimiser is that same mean. (d) {m} points of equal mass that minimise the summed "
    "W\u2082\u00b2 (free support, exact plans). Intensity: density, each panel to its own maximum. Places and sizes "
    "are chosen here; the paper gives none."
)

Image = npt.NDArray[np.float64]


def circle(centre: tuple[float, float], radius: float, m: int = POINTS) -> Tensor:
    """Returns points at equal distances on a circle.

    Args:
        centre: Centre of the circle.
        radius: Radius.
        m: Number of points.

    Returns:
        float64 [m, 2].

    Example:
        >>> circle((0.0, 0.0), 1.0, m=2)[:, 0].tolist()
        [1.0, -1.0]
    """
    angle = 2 * torch.pi * torch.arange(m, dtype=torch.float64) / m
    return torch.stack([angle.cos(), angle.sin()], 1) * radius + torch.tensor(centre, dtype=torch.float64)


def cross(centre: tuple[float, float], reach: float, width: float, m: int = POINTS) -> Tensor:
    """Returns points at equal distances on the outline of an upright cross.

    Args:
        centre: Centre of the cross.
        reach: Half the length of its bars.
        width: Half the width of its bars.
        m: Number of points.

    Returns:
        float64 [m, 2].

    Example:
        >>> cross((0.0, 0.0), 0.75, 0.25, m=4).tolist()
        [[0.75, -0.25], [0.25, 0.75], [-0.75, 0.25], [-0.25, -0.75]]
    """
    quarter = torch.tensor([(reach, -width), (reach, width), (width, width)], dtype=torch.float64)
    rotation = torch.tensor([(0.0, 1.0), (-1.0, 0.0)], dtype=torch.float64)
    corners = torch.cat([quarter @ torch.linalg.matrix_power(rotation, k) for k in range(5)])[:13]
    lengths = torch.cat([torch.zeros(1), (corners[1:] - corners[:-1]).norm(dim=1).cumsum(0)]).numpy()
    positions = np.arange(m) / m * lengths[-1]
    outline = [np.interp(positions, lengths, corners[:, axis].numpy()) for axis in (0, 1)]
    return torch.from_numpy(np.stack(outline, 1)) + torch.tensor(centre, dtype=torch.float64)


def kl_barycenter(densities: Sequence[Image]) -> Image:
    """Computes the density q that minimises sum_k KL(p_k || q): the arithmetic mean of the densities.

    This holds because sum_k KL(p_k || q) = sum_k KL(p_k || mean) + K KL(mean || q). The other direction, KL(q || p_k),
    gives the geometric mean, which is zero wherever one of the densities is zero.

    Args:
        densities: K densities p_k, arrays of one shape.

    Returns:
        The density q, of the same shape.

    Example:
        >>> kl_barycenter([np.array([1.0, 0.0]), np.array([0.0, 1.0])])
        array([0.5, 0.5])
    """
    mean: Image = np.mean(densities, axis=0)
    return mean


def mmd_barycenter(
    measures: Sequence[Tensor], m: int, generator: Generator, bandwidths: Sequence[float] = BANDWIDTHS
) -> Tensor:
    """Computes points that minimise the sum of squared MMDs to several point clouds.

    With mean embeddings mu, sum_k ||mu_q - mu_k||^2 equals K ||mu_q - mu_mixture||^2 plus a constant. So the points are
    fitted to the mixture by Adam. They start uniformly distributed in its bounding box.

    Args:
        measures: Point clouds [n, 2], all of the same size.
        m: Number of points.
        generator: Source of the random initial points.
        bandwidths: Widths of the Gaussian kernels.

    Returns:
        float64 [m, 2].

    Example:
        >>> clouds = [circle((-1.0, 0.0), 0.5, m=8), circle((1.0, 0.0), 0.5, m=8)]
        >>> mmd_barycenter(clouds, 4, Generator().manual_seed(0)).shape
        torch.Size([4, 2])
    """
    mixture = torch.cat(list(measures))
    low, high = mixture.amin(0), mixture.amax(0)
    points = low + (high - low) * torch.rand(m, 2, generator=generator, dtype=torch.float64)
    points.requires_grad_()
    optimizer = torch.optim.Adam([points], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    kernel_mean = gaussian_kernel_mean(mixture, bandwidths)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.autograd.backward(gaussian_mmd(points, mixture, bandwidths, y_kernel_mean=kernel_mean))
        optimizer.step()
        schedule.step()
    return points.detach()


def wasserstein_barycenter(measures: Sequence[Tensor]) -> Tensor:
    """Computes points of equal mass that minimise the sum of W_2^2 to several point clouds.

    Runs the free-support solver of POT (Cuturi and Doucet, 2014) from each of the point clouds and keeps the best
    result.

    Args:
        measures: Point clouds [m, 2], all of the same size.

    Returns:
        float64 [m, 2].

    Example:
        >>> clouds = [torch.tensor([[x, 0.0], [x, 2.0]], dtype=torch.float64) for x in (0.0, 4.0)]
        >>> wasserstein_barycenter(clouds).tolist()
        [[2.0, 0.0], [2.0, 2.0]]
    """
    import ot

    masses = [np.full(len(points), 1 / len(points)) for points in measures]
    locations = [points.numpy() for points in measures]
    candidates = [
        torch.from_numpy(ot.lp.free_support_barycenter(locations, masses, start.numpy(), b=masses[0], stopThr=1e-12))
        for start in measures
    ]
    return min(candidates, key=lambda points: summed_cost(points, measures))


def summed_cost(points: Tensor, measures: Sequence[Tensor]) -> float:
    """Computes the sum of W_2^2 between equal masses on `points` and each of several point clouds.

    Args:
        points: float64 [m, 2].
        measures: Point clouds [n, 2].

    Example:
        >>> summed_cost(torch.zeros(1, 2, dtype=torch.float64), [torch.ones(3, 2, dtype=torch.float64)])
        2.0
    """
    masses = torch.full((len(points),), 1 / len(points), dtype=torch.float64)
    return sum(transport_cost(points, masses, measure) for measure in measures)


def density(points: Tensor) -> Image:
    """Computes a density on the plane of the figure: the mean of Gaussians of width BLUR at the points.

    Args:
        points: float64 [m, 2].

    Returns:
        [PIXELS, PIXELS] with sum 1.

    Example:
        >>> image = density(torch.zeros(1, 2, dtype=torch.float64))
        >>> image.shape, round(float(image.sum()), 6)
        ((220, 220), 1.0)
    """
    axis = torch.linspace(-EDGE, EDGE, PIXELS, dtype=torch.float64)
    x, y = (torch.exp(-((axis[:, None] - points[None, :, k]) ** 2) / (2 * BLUR**2)) for k in (0, 1))
    image = y @ x.T
    normalised: Image = (image / image.sum()).numpy()
    return normalised


def draw() -> Figure:
    """Draws the figure. It needs no data and is deterministic."""
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
        axes.imshow(_draw_layers(layers), extent=(-EDGE, EDGE, -EDGE, EDGE), origin="lower", interpolation="none")
        axes.set_title(title, loc="left")
        axes.set_xlabel("x\u2081")
        axes.set_xticks([-2, 0, 2])
        axes.set_yticks([-2, 0, 2])
        axes.label_outer()
    figure.axes[0].set_ylabel("x\u2082")
    widths = ", ".join(f"{width:g}" for width in BANDWIDTHS)
    style.add_caption(figure, CAPTION.format(m=POINTS, widths=widths))
    return figure


def _draw_layers(layers: Sequence[tuple[Image, str]]) -> Image:
    """Draws densities in colours on white [PIXELS, PIXELS, 3]. Overlapping colours are mixed subtractively."""
    from matplotlib.colors import to_rgb

    picture = np.ones((PIXELS, PIXELS, 3))
    for layer, colour in layers:
        picture *= 1 - layer[..., None] / layer.max() * (1 - np.array(to_rgb(colour)))
    return picture
