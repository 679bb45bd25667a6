"""Mean and variance of activations, image by image, in one pass over them: what the BatchNorm terms are made of."""

from __future__ import annotations

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
    """scale * x + shift, a BatchNorm layer in evaluation mode [C] each, and the moments of x as `moments` gives them.

    x: activations [B, C, H, W], [B, C, N] or [B, C] on the CPU, where the three and their gradient are made part by part
    while a part is in its cache. The result has the type of x.
    """
    through, mean, variance = _Normalised.apply(x, scale, shift)
    return through, Moments(mean, variance)


class _Normalised(torch.autograd.Function):
    """scale * x + shift, and mean and population variance of x over all positions [B, C]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        through, dtype = torch.empty_like(x), _wide(x[:0]).dtype
        scale, shift = (value.to(dtype)[:, None] for value in (scale, shift))
        mean = x.new_empty(x.shape[:2], dtype=dtype)
        variance, space, room = torch.empty_like(mean), None, None
        at_once = _together(x)
        for part, into, *found in zip(
            *(torch.split(t, at_once) for t in (_flat(x), _flat(through), mean, variance)), strict=True
        ):
            if space is None:
                space, room = (torch.empty_like(part, dtype=dtype) for _ in range(2))
            space, room = space[: len(part)], room[: len(part)]
            wide = part if part.dtype == dtype else room.copy_(part)
            torch.mean(wide, 2, out=found[0])
            centred = torch.sub(wide, found[0][..., None], out=space)
            torch.mean(centred.square_(), 2, out=found[1])
            if part.dtype == dtype:
                torch.addcmul(shift, part, scale, out=into)
            else:
                into.copy_(torch.addcmul(shift, wide, scale, out=space))
        ctx.save_for_backward(x, mean, scale)
        return through, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, through: Tensor | None, grad_mean: Tensor | None, grad_variance: Tensor | None) -> Any:
        x, mean, scale = ctx.saved_tensors
        dtype, positions = mean.dtype, x[:1, :1].numel()
        slope = torch.zeros_like(mean) if grad_variance is None else grad_variance * (2 / positions)
        offset = (0 if grad_mean is None else grad_mean / positions) - slope * mean
        gradient, space, room = torch.empty_like(x), None, None
        if through is None:
            through = torch.zeros_like(x)
        at_once = _together(x)
        for into, part, grad, a, b in zip(
            *(torch.split(t, at_once) for t in (_flat(gradient), _flat(x), _flat(through), slope, offset)), strict=True
        ):
            a, b = a[..., None], b[..., None]
            if part.dtype == dtype:
                torch.addcmul(b, part, a, out=into)
                into.addcmul_(grad, scale)
                continue
            if space is None:
                space, room = (torch.empty_like(part, dtype=dtype) for _ in range(2))
            space, room = space[: len(part)], room[: len(part)]
            torch.addcmul(b, room.copy_(part), a, out=space)
            into.copy_(space.addcmul_(room.copy_(grad), scale))
        return gradient, None, None


class _Tap(torch.autograd.Function):
    """x, and its mean and population variance over all positions [B, C]; their gradient is one affine map of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        flat = _flat(x)
        if x.is_cuda:
            variance, mean = torch.var_mean(_wide(flat), 2, correction=0)
        else:
            # var_mean is not vectorised on the CPU: two passes are some ten times faster, and as exact.
            mean = x.new_empty(x.shape[:2], dtype=_wide(x[:0]).dtype)
            variance, space = torch.empty_like(mean), None
            at_once = _together(flat)
            for part, *found in zip(*(torch.split(t, at_once) for t in (flat, mean, variance)), strict=True):
                space = torch.empty_like(part, dtype=mean.dtype) if space is None else space[: len(part)]
                torch.mean(part, 2, dtype=mean.dtype, out=found[0])
                centred = torch.sub(part, found[0][..., None], out=space)
                torch.mean(centred.square_(), 2, out=found[1])
        ctx.save_for_backward(x, mean)
        return x.view_as(x), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, through: Tensor | None, grad_mean: Tensor | None, grad_variance: Tensor | None) -> Any:
        x, mean = ctx.saved_tensors
        if grad_mean is None and grad_variance is None:
            return through
        positions = x[:1, :1].numel()
        # d mean / d x = 1 / N and d variance / d x = 2 (x - mean) / N: together slope * x + offset.
        slope = torch.zeros_like(mean) if grad_variance is None else grad_variance * (2 / positions)
        offset = (0 if grad_mean is None else grad_mean / positions) - slope * mean
        slope, offset = (value.reshape(*mean.shape, *(1 for _ in x.shape[2:])) for value in (slope, offset))
        if through is None:
            return torch.addcmul(offset, x, slope).to(x.dtype)
        space, at_once = None, _together(x)
        for grad, *part in zip(*(torch.split(t, at_once) for t in (through, offset, x, slope)), strict=True):
            space = torch.empty_like(grad, dtype=mean.dtype) if space is None else space[: len(grad)]
            grad.add_(torch.addcmul(*part, out=space))
        return through


def _flat(x: Tensor) -> Tensor:
    """Activations as [B, C, N], without a copy in both memory formats."""
    return x[..., None] if x.ndim == 2 else x.flatten(2)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _together(x: Tensor) -> int:
    """How many images of a batch are worked on at once."""
    return max(1, len(x) if x.is_cuda else AT_ONCE // max(1, x[:1].numel()))
