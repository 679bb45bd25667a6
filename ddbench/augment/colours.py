"""Colour jitter and lighting noise of Minimax Diffusion: draws for each image, and their application to a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the grey image."""
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""Principal components of the colours of ImageNet, of images in [0, 1]; rows are red, green and blue."""


@dataclass(frozen=True)
class Colours:
    """The draws of n images.

    Attributes:
        orders: The order of the three operations of each image (0: brightness, 1: contrast, 2: saturation), int64
            [n, 3].
        shares: The share of each operation's target, by operation, float32 [n, 3].
        shifts: The colour that is added to each image, float32 [n, 3].
    """

    orders: Tensor
    shares: Tensor
    shifts: Tensor

    def __getitem__(self, images: slice | Tensor) -> Colours:
        """Returns the draws of some of the images."""
        return Colours(self.orders[images], self.shares[images], self.shifts[images])

    def to(self, device: torch.device) -> Colours:
        """Returns the draws on a device."""
        return Colours(self.orders.to(device), self.shares.to(device), self.shifts.to(device))


def random_colours(count: int, jitter: float, lighting: float, generator: torch.Generator) -> Colours:
    """Draws colour jitter and lighting noise for images.

    Args:
        count: The number of images.
        jitter: Shares are uniform in [-jitter, jitter], at least 0.
        lighting: The standard deviation of the factor of each principal component, at least 0.
        generator: Source of the random draws.

    Example:
        >>> random_colours(2, 0.0, 0.0, torch.Generator().manual_seed(0)).shifts
        tensor([[0., 0., 0.],
                [0., 0., 0.]])
    """
    orders = torch.rand(count, 3, dtype=torch.float64, generator=generator).argsort(-1)
    shares = jitter * (2 * torch.rand(count, 3, generator=generator) - 1)
    factors = lighting * torch.randn(count, 3, generator=generator)
    return Colours(orders, shares, factors * torch.tensor(EIGENVALUES) @ torch.tensor(EIGENVECTORS).T)


def shift_colours(images: Tensor, colours: Colours) -> Tensor:
    """Applies colour jitter, then lighting noise. Values may leave [0, 1].

    Each operation mixes an image with a target: image + share (target - image). The target of brightness is black, that
    of contrast the mean of the grey image, that of saturation the grey image. Source: `vimar-gu/MinimaxDiffusion`
    (`misc/utils.py`, `ColorJitter` and `Lighting`; `data.py`).

    Args:
        images: Images in [0, 1], float32 [B, 3, H, W].
        colours: The draws of these images, on their device.

    Returns:
        The images with shifted colours; `images` is not changed.

    Example:
        >>> colours = Colours(torch.tensor([[0, 1, 2]]), torch.tensor([[0.5, 0.0, 0.0]]), torch.zeros(1, 3))
        >>> shift_colours(torch.ones(1, 3, 1, 1), colours).flatten()
        tensor([0.5000, 0.5000, 0.5000])
    """
    luma = torch.tensor(LUMA, device=images.device).view(1, 3, 1, 1)
    for place in range(3):
        operation = colours.orders[:, place]
        grey = (images * luma).sum(1, keepdim=True)
        contrast = (operation == 1).view(-1, 1, 1, 1) * grey.mean((2, 3), keepdim=True)
        target = contrast + (operation == 2).view(-1, 1, 1, 1) * grey
        share = colours.shares.gather(1, operation[:, None]).view(-1, 1, 1, 1)
        images = images + share * (target - images)
    return images + colours.shifts[:, :, None, None]
