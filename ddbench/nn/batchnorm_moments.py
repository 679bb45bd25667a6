"""Mean and variance of activations, image by image, in one pass over them: what the BatchNorm terms are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

AT_ONCE = 2**21
"""Activations that are worked on together on a CPU: what is made of them then stays in its cache."""


@dataclass(frozen=True)
class Moments:
    """What `moments` gives of activations, in their place: `mean` and `variance` [B, C].

    The recover loop gives its objective these, not BatchNorm inputs: all that the terms of `objectives` need of them.
    """

    mean: Tensor
    variance: Tensor

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def device(self) -> torch.device:
        """Of both."""
        return self.mean.device


def moments(x: Tensor | Moments) -> tuple[Tensor, Tensor]:
    """Mean and population variance over the positions of each image and channel, [B, C] each.

    x: activations [B, C, H, W], [B, C, N] or [B, C] (one position: variance 0), or their `Moments`. The result is
    float32 for lower precisions too, float64 for float64. Differentiable once.
    """
    if isinstance(x, Moments):
        return x.mean, x.variance
    found = tap(x)[1]
    return found.mean, found.variance


def tap(x: Tensor) -> tuple[Tensor, Moments]:
    """x itself, to be handed on, and its moments as `moments` gives them.

    What is handed on must go to one place alone, whose gradient in it is its own (a BatchNorm layer): the gradient
    of the moments is added to that one in place, when it has come, so that there never is a second gradient of x.
    """
    if torch.compiler.is_compiling():  # the compiler fuses it, and its gradient, with what stands beside it
        flat = _flat(_wide(x))
        mean = flat.mean(2)
        return x, Moments(mean, (flat - mean[..., None]).square().mean(2))
    through, mean, variance = _Tap.apply(x)
    return through, Moments(mean, variance)


def normalised(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Moments]:
    """scale * x + shift, a BatchNorm layer in evaluation mode, and the moments of x as `moments` gives them.

    x: activations [B, C, H, W], [B, C, N] or [B, C]; scale and shift [C]. For the CPU: part by part, so that each part
    of x is read from memory once, and once more for the gradient. The result has the type of x. Differentiable once,
    in x.
    """
    through, mean, variance = _Normalised.apply(x, scale, shift)
    return through, Moments(mean, variance)


class _Tap(torch.autograd.Function):
    """x, and its mean and population variance over all positions [B, C]; their gradient is one affine map of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        flat = _flat(x)
        if x.is_cuda:
            variance, mean = torch.var_mean(_wide(flat), 2, correction=0)
        else:
            mean = x.new_empty(x.shape[:2], dtype=_wide(x[:0]).dtype)
            variance, space = torch.empty_like(mean), _space(flat, mean.dtype)
            for part, *found in _parts(flat, mean, variance):
                _measure(part, space[: len(part)], *found)
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
        space = _space(x, mean.dtype)
        for grad, *part in _parts(through, offset, x, slope):
            grad.add_(torch.addcmul(*part, out=space[: len(grad)]))
        return through


class _Normalised(torch.autograd.Function):
    """scale * x + shift, and mean and population variance of x over all positions [B, C]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        mean = x.new_empty(x.shape[:2], dtype=_wide(x[:0]).dtype)
        through, variance = torch.empty_like(x), torch.empty_like(mean)
        space, room = _space(x, mean.dtype), _space(x, mean.dtype)
        scale, shift = (value.to(mean.dtype).reshape(_over_positions(x, 1)) for value in (scale, shift))
        for part, into, *found in _parts(x, through, mean, variance):
            wide, here = _wide(part, room[: len(part)]), space[: len(part)]
            _measure(_flat(wide), _flat(here), *found)
            into.copy_(torch.addcmul(shift, wide, scale, out=_either(into, here)))
        ctx.save_for_backward(x, mean, scale)
        return through, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, through: Tensor | None, grad_mean: Tensor | None, grad_variance: Tensor | None) -> Any:
        x, mean, scale = ctx.saved_tensors
        slope, offset = _affine(grad_mean, grad_variance, mean, x)
        through = torch.zeros_like(x) if through is None else through
        gradient, space, room = torch.empty_like(x), _space(x, mean.dtype), _space(x, mean.dtype)
        for part, grad, into, *line in _parts(x, through, gradient, offset, slope):
            here, there = space[: len(part)], room[: len(part)]
            sum_ = torch.addcmul(line[0], _wide(part, there), line[1], out=_either(into, here))
            into.copy_(sum_.addcmul_(_wide(grad, there), scale))
        return gradient, None, None


def _measure(x: Tensor, space: Tensor, mean: Tensor, variance: Tensor) -> None:
    """Both moments of a part [n, C, N], by way of `space`."""
    # var_mean is not vectorised on the CPU: two passes are some ten times faster, and as exact.
    torch.mean(x, 2, dtype=mean.dtype, out=mean)
    torch.mean(torch.sub(x, mean[..., None], out=space).square_(), 2, out=variance)


def _affine(grad_mean: Tensor | None, grad_variance: Tensor | None, mean: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset of the gradient in x: d mean / d x = 1 / N and d variance / d x = 2 (x - mean) / N."""
    positions = x[:1, :1].numel()
    slope = torch.zeros_like(mean) if grad_variance is None else grad_variance * (2 / positions)
    offset = (0 if grad_mean is None else grad_mean / positions) - slope * mean
    return slope.reshape(_over_positions(x, 2)), offset.reshape(_over_positions(x, 2))


def _over_positions(x: Tensor, dims: int) -> tuple[int, ...]:
    """Shape of what x has by channel (1) or by image and channel (2), to be applied to x."""
    return (*x.shape[2 - dims : 2], *(1 for _ in x.shape[2:]))


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Of each of them the same images, as many as are worked on at once of the first."""
    at_once = _at_once(tensors[0])
    return zip(*(torch.split(tensor, at_once) for tensor in tensors), strict=True)


def _at_once(x: Tensor) -> int:
    return max(1, len(x) if x.is_cuda else AT_ONCE // max(1, x[:1].numel()))


def _space(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Room for one of the parts, in its memory format."""
    return torch.empty_like(x[: _at_once(x)], dtype=dtype)


def _either(into: Tensor, space: Tensor) -> Tensor:
    """Where to write what goes into the first: there at once, if it is of the type (a copy to itself costs nothing)."""
    return into if into.dtype == space.dtype else space


def _flat(x: Tensor) -> Tensor:
    """Activations as [B, C, N], without a copy in both memory formats."""
    return x[..., None] if x.ndim == 2 else x.flatten(2)


def _wide(x: Tensor, room: Tensor | None = None) -> Tensor:
    """x in float32 at least; in `room` where that is another type: operations on two types are slow on a CPU."""
    if room is not None:
        return x if x.dtype == room.dtype else room.copy_(x)
    return x if x.dtype == torch.float64 else x.float()
