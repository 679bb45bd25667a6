"""Flat trajectories: the gradient of GSAM, with which FTD (Du et al., CVPR 2023) trains its experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

EPSILON = 1e-12
"""Added to norms that divide (released code, `buffer/gsam/gsam.py`)."""


@dataclass(frozen=True)
class SurrogateGap:
    """The gradient of adaptive GSAM (Zhuang et al., ICLR 2022), for `fit`.

    With g the gradient of the loss at the parameters w, the perturbation is e = rho w^2 g / | |w| g |, elementwise
    except for the norm over all parameters. With h the gradient at w + e, the result is h - alpha v, where v is the
    part of g that is orthogonal to h.

    Attributes:
        rho: The size of the perturbation.
        alpha: The weight of the orthogonal part.
    """

    rho: float
    alpha: float

    def __call__(self, network: nn.Module, compute: Callable[[], Tensor]) -> Tensor:
        """Leaves the gradient in the network.

        Args:
            network: The network.
            compute: Leaves the gradient at the present parameters in the network, and returns the loss.

        Returns:
            The loss at w.
        """
        loss = compute()
        with torch.no_grad():
            trained = [parameter for parameter in network.parameters() if parameter.grad is not None]
            before = [parameter.clone() for parameter in trained]
            plain = [gradient.clone() for gradient in gradients(trained)]
            scale = self.rho / (norm([weight.abs() * g for weight, g in zip(before, plain, strict=True)]) + EPSILON)
            for parameter, g in zip(trained, plain, strict=True):
                parameter.add_(parameter.square() * g * scale)
        compute()
        with torch.no_grad():
            for parameter, weight in zip(trained, before, strict=True):
                parameter.copy_(weight)
            perturbed = gradients(trained)
            size, perturbed_size = norm(plain), norm(perturbed)
            inner = torch.stack([(g * h).sum() for g, h in zip(plain, perturbed, strict=True)]).sum()
            along = inner / (size * perturbed_size + EPSILON) * size / (perturbed_size + EPSILON)
            for g, h in zip(plain, perturbed, strict=True):
                h.sub_(g - along * h, alpha=self.alpha)
        return loss


def gradients(parameters: list[nn.Parameter]) -> list[Tensor]:
    """Returns the gradients that parameters hold."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def norm(tensors: list[Tensor]) -> Tensor:
    """Returns the Euclidean norm of several tensors together.

    >>> norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
    tensor(5.)
    """
    squares: Tensor = torch.stack([tensor.square().sum() for tensor in tensors]).sum()
    return squares.sqrt()
