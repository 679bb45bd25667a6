"""Kernels for the CPU, for operations that are slow in PyTorch on a CPU.

- `strided_conv`: the gradient of a strided first convolution with respect to its images.
- `moments`, `add_affine_`, `normalise`, `normalise_gradient`: passes over activations in parts that fit in the CPU's
  cache, for the moments of BatchNorm inputs.

Measured as CPU time of one thread, they shorten a recover step of a ResNet-18 by 7 to 11 % (`strided_conv`) and 4 to 7
% (`normalise`), at 100 x 64 x 64 and 10 x 224 x 224.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW_CHANNELS = 4
"""Most input channels of a strided convolution that `strided_conv` replaces.

oneDNN pads channels to a vector of 16, so most of the gradient of an image with three channels is computed on zeros.
"""

PART_SIZE = 2**21
"""Activations that are processed together, so that intermediate results stay in the cache."""


def moments(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Computes mean and population variance over the positions of each image and channel, part by part.

    Takes two passes: `torch.var_mean` is not vectorised on the CPU, and is about ten times slower.

    Args:
        x: Activations [B, C, N].
        dtype: dtype of the arithmetic and of the results: float32, or float64 for float64.

    Returns:
        A tuple of mean and variance, [B, C] each.

    Example:
        >>> moments(torch.tensor([[[1.0, 3.0]]]), torch.float32)
        (tensor([[2.]]), tensor([[1.]]))
    """
    mean = x.new_empty(x.shape[:2], dtype=dtype)
    variance, buffer = torch.empty_like(mean), _part_buffer(x, dtype)
    for part, *results in _parts(x, mean, variance):
        _part_moments(part, buffer[: len(part)], *results)
    return mean, variance


def add_affine_(gradient: Tensor, x: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """Adds slope * x + offset to a gradient in place, part by part.

    Args:
        gradient: Gradient of the activations, of the shape of `x`.
        x: Activations [B, C, ...].
        slope: Factor for each image and channel, [B, C, 1, ...], in float32 or float64.
        offset: Offset of each image and channel, of the shape of `slope`.

    Returns:
        `gradient`.

    Example:
        >>> x = torch.tensor([[[1.0, 3.0]]])
        >>> add_affine_(torch.ones(1, 1, 2), x, slope=torch.full((1, 1, 1), 2.0), offset=torch.zeros(1, 1, 1))
        tensor([[[3., 7.]]])
    """
    buffer = _part_buffer(x, slope.dtype)
    for part, *affine in _parts(gradient, offset, x, slope):
        part.add_(torch.addcmul(*affine, out=buffer[: len(part)]))
    return gradient


def normalise(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Computes scale * x + shift and the moments of x, reading x from memory once.

    Args:
        x: Activations [B, C, ...].
        scale: Factor of each channel, [C, 1, ...], in the dtype of the arithmetic: float32, or float64 for float64.
        shift: Offset of each channel, of the shape and dtype of `scale`.

    Returns:
        A tuple of the normalised activations, in the dtype of x, and of mean and variance of x, [B, C] each.

    Example:
        >>> normalise(torch.tensor([[[1.0, 3.0]]]), torch.full((1, 1), 2.0), torch.ones(1, 1))
        (tensor([[[3., 7.]]]), tensor([[2.]]), tensor([[1.]]))
    """
    mean = x.new_empty(x.shape[:2], dtype=scale.dtype)
    out, variance = torch.empty_like(x), torch.empty_like(mean)
    buffer, converted = _part_buffer(x, scale.dtype), _part_buffer(x, scale.dtype)
    for part, part_out, *results in _parts(x, out, mean, variance):
        values, result = _converted(part, converted), buffer[: len(part)]
        _part_moments(_flat(values), _flat(result), *results)
        part_out.copy_(torch.addcmul(shift, values, scale, out=_output(part_out, result)))
    return out, mean, variance


def normalise_gradient(gradient: Tensor, x: Tensor, scale: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """Computes the gradient of `normalise`: scale * gradient + slope * x + offset, part by part.

    Args:
        gradient: Gradient of the normalised activations, of the shape of `x`.
        x: Activations [B, C, ...].
        scale: Factor of each channel, [C, 1, ...], as in `normalise`.
        slope: Factor of x for each image and channel, [B, C, 1, ...], from the gradients of the moments.
        offset: Offset of each image and channel, of the shape of `slope`.

    Returns:
        The gradient of x, in the dtype of x.

    Example:
        >>> x, one = torch.tensor([[[1.0, 3.0]]]), torch.ones(1, 1, 1)
        >>> normalise_gradient(torch.ones(1, 1, 2), x, torch.full((1, 1), 2.0), slope=one, offset=one)
        tensor([[[4., 6.]]])
    """
    out = torch.empty_like(x)
    buffer, converted = _part_buffer(x, scale.dtype), _part_buffer(x, scale.dtype)
    for part, part_gradient, part_out, part_offset, part_slope in _parts(x, gradient, out, offset, slope):
        result = _output(part_out, buffer[: len(part)])
        torch.addcmul(part_offset, _converted(part, converted), part_slope, out=result)
        part_out.copy_(result.addcmul_(_converted(part_gradient, converted), scale))
    return out


def _part_moments(x: Tensor, buffer: Tensor, mean: Tensor, variance: Tensor) -> None:
    """Writes mean and variance [n, C] of a part [n, C, N]; `buffer` has the shape of the part."""
    torch.mean(x, 2, dtype=mean.dtype, out=mean)
    torch.mean(torch.sub(x, mean[..., None], out=buffer).square_(), 2, out=variance)


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Splits tensors at the same images. The first tensor determines the number of images per part."""
    images = _images_per_part(tensors[0])
    return zip(*(torch.split(tensor, images) for tensor in tensors), strict=True)


def _part_buffer(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns memory for one part of `x`, in the memory format of `x`."""
    return torch.empty_like(x[: _images_per_part(x)], dtype=dtype)


def _images_per_part(x: Tensor) -> int:
    return max(1, PART_SIZE // max(1, x[:1].numel()))


def _converted(part: Tensor, buffer: Tensor) -> Tensor:
    """Copies a part into `buffer` and thereby to its dtype: operations on two dtypes are slow on a CPU."""
    return part if part.dtype == buffer.dtype else buffer[: len(part)].copy_(part)


def _output(part: Tensor, buffer: Tensor) -> Tensor:
    """Returns the tensor for a result: `part` itself if the dtypes agree (copying it to itself costs nothing)."""
    return part if part.dtype == buffer.dtype else buffer


def _flat(x: Tensor) -> Tensor:
    return x[..., None] if x.ndim == 2 else x.flatten(2)


def is_strided_conv(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Tests whether `strided_conv` can replace a layer.

    Args:
        layer: Any layer.

    Returns:
        True for a plain strided convolution with at most `FEW_CHANNELS` input channels.

    Example:
        >>> is_strided_conv(nn.Conv2d(3, 64, 7, stride=2, padding=3)), is_strided_conv(nn.Conv2d(3, 64, 3))
        (True, False)
    """
    return (
        isinstance(layer, nn.Conv2d)
        and type(layer).forward is nn.Conv2d.forward
        and layer.in_channels <= FEW_CHANNELS
        and layer.stride[0] == layer.stride[1] > 1
        and layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.padding[0] == layer.padding[1]
    )


def strided_conv(layer: nn.Conv2d, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Runs a strided first convolution with a faster gradient with respect to the images.

    The output equals the layer's output bit by bit. On a CPU, the gradient equals that of PyTorch up to rounding.

    Args:
        layer: A layer for which `is_strided_conv` is true.
        forward: The layer's original forward method. It is called if the weights are not frozen or the device is not a
            CPU.
        images: Images [B, C, H, W].

    Returns:
        The output of the layer.

    Example:
        >>> layer = nn.Conv2d(3, 4, 3, stride=2, padding=1).requires_grad_(False)
        >>> images = torch.ones(1, 3, 8, 8)
        >>> torch.equal(strided_conv(layer, layer.forward, images), layer(images))
        True
    """
    if images.device.type != "cpu" or any(parameter.requires_grad for parameter in layer.parameters()):
        return forward(images)
    out: Tensor = _StridedConv.apply(images, layer.weight, layer.bias, layer.stride[0], int(layer.padding[0]))
    return out


class _StridedConv(torch.autograd.Function):
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
    """Computes the gradient of images of `size`: with blocks of stride x stride pixels as channels, the stride is 1."""
    front = -padding % stride
    skip = (padding + front) // stride
    blocks = [-(-side // stride) for side in size]
    out, channels, *kernel = weight.shape
    back = [-(side + front) % stride for side in kernel]
    kernel = [(side + front + more) // stride for side, more in zip(kernel, back, strict=True)]
    weight = F.pad(weight, (front, back[1], front, back[0]))
    weight = weight.reshape(out, channels, kernel[0], stride, kernel[1], stride).permute(0, 1, 3, 5, 2, 4)
    weight = weight.reshape(out, channels * stride**2, *kernel).contiguous(memory_format=torch.channels_last)
    by_block = F.conv_transpose2d(gradient, weight)
    # Remove the blocks that the padding added before the images. Pixels at the end that no kernel window covers have
    # zero gradient.
    ends = [skip + count - side for count, side in zip(blocks, by_block.shape[2:], strict=True)]
    by_block = F.pad(by_block, (-skip, ends[1], -skip, ends[0]))
    return F.pixel_shuffle(by_block, stride)[:, :, : size[0], : size[1]]
