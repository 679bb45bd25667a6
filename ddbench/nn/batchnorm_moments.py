"""Mean and variance of activations, image by image: the input of the BatchNorm loss terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ddbench.nn import cpu


@dataclass(frozen=True)
class Moments:
    """Moments of activations. They replace the activations in losses that need only the moments.

    The recover loop passes them to its objective instead of BatchNorm inputs. All terms of `ddbench.losses` accept
    them.

    Attributes:
        mean: Mean over the positions of each image and channel, [B, C].
        variance: Population variance over the same positions, [B, C].
    """

    mean: Tensor
    variance: Tensor

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def device(self) -> torch.device:
        """The device of both tensors."""
        return self.mean.device


def moments(x: Tensor | Moments) -> tuple[Tensor, Tensor]:
    """Computes mean and population variance over the positions of each image and channel.

    Args:
        x: Activations [B, C, H, W], [B, C, N] or [B, C] (one position: variance 0), or their `Moments`.

    Returns:
        A tuple of mean and variance, [B, C] each, float32 for lower precisions and float64 for float64. Differentiable
        once.

    Example:
        >>> moments(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]))
        (tensor([[2., 5.]]), tensor([[1., 0.]]))
    """
    if isinstance(x, Moments):
        return x.mean, x.variance
    result = tap_moments(x)[1]
    return result.mean, result.variance


def tap_moments(x: Tensor) -> tuple[Tensor, Moments]:
    """Returns activations with their moments, so that only one gradient of the activations is in memory at a time.

    Pass the returned activations to one layer only, and only to a layer that allocates the gradient of its input, such
    as BatchNorm. The backward pass adds the gradient of the moments to this gradient in place.

    Args:
        x: Activations [B, C, H, W], [B, C, N] or [B, C].

    Returns:
        A tuple of x and its moments; see `moments`. Differentiable once.

    Example:
        >>> x, result = tap_moments(torch.tensor([[[1.0, 3.0]]]))
        >>> x, result.mean, result.variance
        (tensor([[[1., 3.]]]), tensor([[2.]]), tensor([[1.]]))
    """
    # torch.compile fuses these operations and their gradient with the operations around them.
    if torch.compiler.is_compiling():
        flat = _float(_flat(x))
        mean = flat.mean(2)
        return x, Moments(mean, (flat - mean[..., None]).square().mean(2))
    through, mean, variance = _TapMoments.apply(x)
    return through, Moments(mean, variance)


def normalise_with_moments(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Moments]:
    """Computes scale * x + shift, a BatchNorm layer in evaluation mode, and the moments of x, on a CPU.

    Works part by part, so that each pass, forward and backward, reads x from memory only once.

    Args:
        x: Activations [B, C, H, W], [B, C, N] or [B, C].
        scale: Factor of each channel, [C].
        shift: Offset of each channel, [C].

    Returns:
        A tuple of the normalised activations, in the dtype of x, and the moments of x; see `moments`. Differentiable
        once, in x.

    Example:
        >>> out, result = normalise_with_moments(torch.tensor([[[1.0, 3.0]]]), torch.tensor([2.0]), torch.tensor([1.0]))
        >>> out, result.mean, result.variance
        (tensor([[[3., 7.]]]), tensor([[2.]]), tensor([[1.]]))
    """
    out, mean, variance = _NormaliseWithMoments.apply(x, scale, shift)
    return out, Moments(mean, variance)


class _TapMoments(torch.autograd.Function):
    """Returns x, its mean and its variance. The gradient of the moments is one affine map of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        flat = _flat(x)
        if x.is_cuda:
            variance, mean = torch.var_mean(_float(flat), 2, correction=0)
        else:
            mean, variance = cpu.moments(flat, _float(x[:0]).dtype)
        ctx.save_for_backward(x, mean)
        return x.view_as(x), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, through: Tensor | None, grad_mean: Tensor | None, grad_variance: Tensor | None) -> Any:
        x, mean = ctx.saved_tensors
        if grad_mean is None and grad_variance is None:
            return through
        slope, offset = _affine(grad_mean, grad_variance, mean, x)
        if through is None:
            return torch.addcmul(offset, x, slope).to(x.dtype)
        if x.is_cuda:
            return through.add_(torch.addcmul(offset, x, slope))
        return cpu.add_affine_(through, x, slope, offset)


class _NormaliseWithMoments(torch.autograd.Function):
    """Returns scale * x + shift, and mean and variance of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        dtype = _float(x[:0]).dtype
        scale, shift = (value.to(dtype).reshape(-1, *(1 for _ in x.shape[2:])) for value in (scale, shift))
        out, mean, variance = cpu.normalise(x, scale, shift)
        ctx.save_for_backward(x, mean, scale)
        return out, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor | None, grad_mean: Tensor | None, grad_variance: Tensor | None) -> Any:
        x, mean, scale = ctx.saved_tensors
        slope, offset = _affine(grad_mean, grad_variance, mean, x)
        grad_out = torch.zeros_like(x) if grad_out is None else grad_out
        return cpu.normalise_gradient(grad_out, x, scale, slope, offset), None, None


def _affine(grad_mean: Tensor | None, grad_variance: Tensor | None, mean: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns slope and offset of the moments' gradient, an affine map of x, [B, C, 1, ...] each.

    d mean / dx = 1 / N and d variance / dx = 2 (x - mean) / N for N positions.
    """
    positions = x[:1, :1].numel()
    slope = torch.zeros_like(mean) if grad_variance is None else grad_variance * (2 / positions)
    offset = (0 if grad_mean is None else grad_mean / positions) - slope * mean
    shape = (*x.shape[:2], *(1 for _ in x.shape[2:]))
    return slope.reshape(shape), offset.reshape(shape)


def _flat(x: Tensor) -> Tensor:
    """Returns activations as [B, C, N], without a copy in both memory formats."""
    return x[..., None] if x.ndim == 2 else x.flatten(2)


def _float(x: Tensor) -> Tensor:
    """Converts to float32, unless x is float64."""
    return x if x.dtype == torch.float64 else x.float()
