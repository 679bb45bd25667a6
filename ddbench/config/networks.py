"""A catalogue of networks that are tested with ddbench. Imports no torch, so that it lists quickly."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class NetworkInfo:
    """One entry of the catalogue.

    Attributes:
        name: The name that `ddbench.nn.build_network` accepts.
        source: The library that implements the network.
        about: One line about its architecture.
    """

    name: str
    source: Literal["torchvision", "timm", "ddbench"]
    about: str


CATALOG: tuple[NetworkInfo, ...] = (
    NetworkInfo("resnet18", "torchvision", "residual network, BatchNorm; the usual teacher and student"),
    NetworkInfo("resnet34", "torchvision", "residual network, BatchNorm"),
    NetworkInfo("resnet50", "torchvision", "residual network of bottlenecks, BatchNorm"),
    NetworkInfo("resnet101", "torchvision", "residual network of bottlenecks, BatchNorm"),
    NetworkInfo("vgg11_bn", "torchvision", "plain convolutions, BatchNorm; 32 px and more"),
    NetworkInfo("densenet121", "torchvision", "densely connected convolutions, BatchNorm; 32 px and more"),
    NetworkInfo("mobilenet_v2", "torchvision", "inverted residuals, BatchNorm"),
    NetworkInfo("shufflenet_v2_x1_0", "torchvision", "channel shuffles, BatchNorm"),
    NetworkInfo("efficientnet_b0", "torchvision", "scaled inverted residuals, BatchNorm"),
    NetworkInfo("regnet_y_400mf", "torchvision", "regular residual design, BatchNorm"),
    NetworkInfo("convnext_tiny", "torchvision", "modern convolutions, LayerNorm"),
    NetworkInfo("swin_t", "torchvision", "transformer on shifted windows, LayerNorm"),
    NetworkInfo("vit_tiny_patch16_224", "timm", "vision transformer, LayerNorm; built for the image size in use"),
    NetworkInfo("vit_small_patch16_224", "timm", "vision transformer, LayerNorm; built for the image size in use"),
    NetworkInfo("mixer_s16_224", "timm", "MLP on patches, LayerNorm; built for the image size in use"),
    NetworkInfo("convnet-d3", "ddbench", "ConvNet of 3 blocks (convnet-d1 to -d6), width 128, instance norm"),
    NetworkInfo("convnet-bn-d3", "ddbench", "the same with BatchNorm, for methods that match its statistics"),
    NetworkInfo("convnet-d4", "ddbench", "ConvNet of 4 blocks, usual for 64 px"),
    NetworkInfo(
        "resnetap-10", "ddbench", "ResNet-10 (or -18) with average pooling for strides, instance norm; 16 px and more"
    ),
    NetworkInfo("resnet-in-18", "ddbench", "ResNet-18 (or -10) with instance norm; 16 px and more"),
)
OTHER_NETWORKS = "any other classifier as torchvision/NAME or timm/NAME"
"""Text about the networks that are not in the catalogue."""


def convnet_for(image_size: int) -> str:
    """Returns the ConvNet of DC, DSA and DM whose depth suits an image size.

    It has 3 blocks up to 32 px and one more for each doubling, at most 6. The last feature map of images of 32 px and
    more is 3x3 to 5x5. Source: DC and DSA have 3 blocks at 28 and 32 px, DM 4 at 64 px; other sizes continue the rule.

    Args:
        image_size: The side of the images in pixels.

    Example:
        >>> [convnet_for(size) for size in (28, 32, 64, 128, 224)]
        ['convnet-d3', 'convnet-d3', 'convnet-d4', 'convnet-d5', 'convnet-d6']
    """
    return f"convnet-d{min(6, max(3, round(math.log2(image_size / 4))))}"
