"""The residual networks of the distillation literature: instance norm, and average pooling instead of strides."""

from __future__ import annotations

from functools import partial

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

BLOCKS = {10: [1, 1, 1, 1], 18: [2, 2, 2, 2]}
"""Blocks of each of the four stages, by depth."""


def residual_network(depth: int, num_classes: int, image_size: int, average_pooling: bool) -> ResNet:
    """Builds torchvision's ResNet with instance norm and the stem of IDC and Minimax Diffusion for its image size.

    Up to 64 pixels the stem is a 3x3 convolution; up to 128 pixels, a pooling that halves the map follows it; above, it
    is a 7x7 convolution and pooling to a quarter. With `average_pooling` this is ResNetAP: no convolution has a stride;
    average pooling halves the maps instead, after the first ReLU of a block and after the convolution of its shortcut.
    Source: `vimar-gu/MinimaxDiffusion:train_models/resnet.py` and `resnet_ap.py`, as in IDC; the weights have the
    distribution of torchvision's, which is the same.

    Args:
        depth: Layers with weights: 10 or 18.
        num_classes: Number of classes.
        image_size: Side of the square images in pixels, at least 16.
        average_pooling: Whether to build ResNetAP.

    Returns:
        The network. It takes images [B, 3, S, S] and returns logits [B, num_classes].

    Example:
        >>> import torch
        >>> residual_network(10, 10, 32, average_pooling=True)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    network = ResNet(BasicBlock, BLOCKS[depth], num_classes, norm_layer=partial(nn.InstanceNorm2d, affine=True))
    pool: nn.Module = nn.MaxPool2d(3, 2, 1)
    if average_pooling:
        for block in network.modules():
            if isinstance(block, BasicBlock) and block.stride != 1:
                _pool_instead_of_striding(block)
        pool = nn.AvgPool2d(4 if image_size > 128 else 2)
        network.conv1.stride = (1, 1)
    if image_size <= 128:
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = pool if image_size > 64 else nn.Identity()
    return network


def _pool_instead_of_striding(block: BasicBlock) -> None:
    assert block.downsample is not None
    convolution, norm = block.downsample
    block.conv1.stride = convolution.stride = (1, 1)
    block.conv2 = nn.Sequential(nn.AvgPool2d(block.stride), block.conv2)
    block.downsample = nn.Sequential(convolution, nn.AvgPool2d(block.stride), norm)
