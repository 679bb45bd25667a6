"""A network's strided first convolution, with a quicker gradient in its images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW = 4
"""Channels of images: oneDNN fills a vector of 16 with them, so that a gradient in three is five parts zeros in six."""


def is_stem(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether `convolution` may stand for this layer: a plain, strided convolution of few channels."""
    return (
        isinstance(layer, nn.Conv2d)
        and type(layer).forward is nn.Conv2d.forward
        and layer.in_channels <= FEW
        and layer.stride[0] == layer.stride[1] > 1
        and layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.padding[0] == layer.padding[1]
    )


def convolution(layer: nn.Conv2d, plain: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """What the layer makes of images [B, C, H, W], bit by bit, on a CPU with the gradient in them up to rounding.

    plain: the layer's own forward, which is asked where its weights are not frozen and on other devices.
    """
    if images.device.type != "cpu" or any(parameter.requires_grad for parameter in layer.parameters()):
        return plain(images)
    out: Tensor = _Stem.apply(images, layer.weight, layer.bias, layer.stride[0], int(layer.padding[0]))
    return out


class _Stem(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.size, ctx.type, ctx.stride, ctx.padding = images.shape[2:], images.dtype, stride, padding
        return F.conv2d(images, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        images = _gradient(gradient, weight.to(gradient.dtype), ctx.size, ctx.stride, ctx.padding)
        return images.to(ctx.type), None, None, None, None


def _gradient(gradient: Tensor, weight: Tensor, size: torch.Size, stride: int, padding: int) -> Tensor:
    """Gradient in images of `size`: blocks of stride x stride pixels are channels, over which the step is one."""
    front = -padding % stride
    skip = (padding + front) // stride
    blocks = [-(-side // stride) for side in size]
    out, channels, *kernel = weight.shape
    back = [-(side + front) % stride for side in kernel]
    kernel = [(side + front + more) // stride for side, more in zip(kernel, back, strict=True)]
    weight = F.pad(weight, (front, back[1], front, back[0]))
    weight = weight.reshape(out, channels, kernel[0], stride, kernel[1], stride).permute(0, 1, 3, 5, 2, 4)
    weight = weight.reshape(out, channels * stride**2, *kernel).contiguous(memory_format=torch.channels_last)
    found = F.conv_transpose2d(gradient, weight)
    # Blocks before the images, which their padding made, go; where the last pixels are looked at by none, zeros come.
    ends = [skip + count - side for count, side in zip(blocks, found.shape[2:], strict=True)]
    found = F.pad(found, (-skip, ends[1], -skip, ends[0]))
    return F.pixel_shuffle(found, stride)[:, :, : size[0], : size[1]]
