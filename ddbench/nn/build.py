"""Builds networks by name and seed, with a first layer that suits small images."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from ddbench.config.networks import CATALOG
from ddbench.config.schema import Stem
from ddbench.core.errors import DDBenchError, unknown

SMALL_IMAGE = 32
"""Largest side in pixels for which the stem "auto" means "small"."""
STEM_POOLS = {"maxpool", "maxpool1", "features.pool0", "stem.pool"}
"""Module names of the first max-pool: ResNets, GoogLeNet, DenseNets, timm."""
CONVNET_WIDTH = 128


class ConvNet(nn.Module):
    """ConvNet-D of the distillation literature: `depth` blocks, then one linear layer on the flattened map.

    A block is a 3x3 convolution to 128 channels, affine instance norm (or BatchNorm), ReLU and 2x2 average pooling.
    Takes images [B, 3, S, S] and returns logits [B, num_classes]. Source: Gidaris and Komodakis, CVPR 2018, as used in
    DC (Zhao et al., ICLR 2021).

    Args:
        depth: Number of blocks.
        num_classes: Number of classes.
        image_size: Side S of the images in pixels, at least 2**depth.
        batch_norm: Whether to use BatchNorm instead of instance norm.

    Example:
        >>> ConvNet(depth=3, num_classes=10, image_size=32)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, depth: int, num_classes: int, image_size: int, batch_norm: bool = False) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for index in range(depth):
            blocks += [
                nn.Conv2d(3 if index == 0 else CONVNET_WIDTH, CONVNET_WIDTH, 3, padding=1),
                nn.BatchNorm2d(CONVNET_WIDTH) if batch_norm else nn.InstanceNorm2d(CONVNET_WIDTH, affine=True),
                nn.ReLU(),
                nn.AvgPool2d(2),
            ]
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(CONVNET_WIDTH * (image_size // 2**depth) ** 2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    # torch.manual_seed would also reseed every accelerator, and fork_rng(devices=[]) does not restore their generators.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def build_network(arch: str, num_classes: int, image_size: int, stem: Stem = "auto", seed: int = 0) -> nn.Module:
    """Builds a classifier with random initial weights. The global random generator is left unchanged.

    Args:
        arch: "resnet18" (torchvision's, else timm's), "torchvision/NAME", "timm/NAME", "convnet-d1" to "-d6",
            "convnet-bn-d1" to "-d6", or "resnetap-" or "resnet-in-" with 10 or 18 (`residual.residual_network`).
        num_classes: Number of classes.
        image_size: Side of the square images [B, 3, S, S] in pixels; transformers are built for that size.
        stem: First convolution; see `TeacherConfig.stem`. "auto" changes nothing in networks without a strided first
            convolution.
        seed: Seed of all weights.

    Returns:
        The network, float32 on the CPU, in training mode.

    Raises:
        DDBenchError: The name is unknown, the network has no first convolution for this stem, or the network does not
            accept this image size.

    Example:
        >>> network = build_network("convnet-d3", num_classes=10, image_size=32, seed=0)
        >>> network(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    with _seeded(seed):
        try:
            network = _construct(arch, num_classes, image_size)
            if stem == "auto":
                if image_size <= SMALL_IMAGE:
                    _replace_stem(network, "small")
            elif stem != "imagenet" and not _replace_stem(network, stem):
                raise DDBenchError(
                    f"stem '{stem}' needs a strided first convolution; network '{arch}' has none: use 'auto'"
                )
            with torch.no_grad():
                network.eval()(torch.zeros(1, 3, image_size, image_size))
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DDBenchError(f"network '{arch}' cannot be built for {image_size}-pixel images: {reason}") from error
    return network.train()


def _construct(arch: str, num_classes: int, image_size: int) -> nn.Module:
    if match := re.fullmatch(r"convnet-(bn-)?d([1-6])", arch):
        depth = int(match[2])
        if image_size < 2**depth:
            raise DDBenchError(f"network '{arch}' needs images of {2**depth} pixels or more, not {image_size}")
        return ConvNet(depth, num_classes, image_size, batch_norm=match[1] is not None)

    if match := re.fullmatch(r"resnet(ap|-in)-(10|18)", arch):
        from ddbench.nn.residual import residual_network

        residual: nn.Module = residual_network(int(match[2]), num_classes, image_size, match[1] == "ap")
        return residual

    import torchvision

    source, _, name = arch.rpartition("/")
    torchvision_names = torchvision.models.list_models(module=torchvision.models)
    if source in ("", "torchvision") and name in torchvision_names:
        options: dict[str, Any] = {}
        if name.startswith("vit_"):
            options["image_size"] = image_size
        elif name.startswith("maxvit"):
            options["input_size"] = (image_size, image_size)
        elif name in ("googlenet", "inception_v3"):
            options |= {"aux_logits": False, "init_weights": True}
        network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
        return network

    import timm

    if source in ("", "timm") and timm.is_model(name):
        defaults = timm.models.get_pretrained_cfg(name)
        options = {"img_size": image_size} if defaults is not None and defaults.fixed_input_size else {}
        timm_network: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, **options)
        return timm_network

    plain = name.removesuffix("_modified")
    if plain != name and plain in torchvision_names:  # the name in the code of several papers
        raise DDBenchError(
            f"unknown network '{arch}'; for '{plain}' with a 3x3 first convolution and without max-pool, "
            f"give {plain} and --set teacher.stem=small"
        )
    names = [*(f"torchvision/{known}" for known in torchvision_names), *(f"timm/{n}" for n in timm.list_models())]
    if source == "":
        names = [known.partition("/")[2] for known in names]
        names += [f"convnet-{norm}d{depth}" for norm in ("", "bn-") for depth in range(1, 7)]
        names += [f"resnet{kind}-{depth}" for kind in ("ap", "-in") for depth in (10, 18)]
    # Without a close match, the error lists the names of the catalogue instead of the thousand names of timm.
    raise unknown("network", arch, names if get_close_matches(arch, names, 1, 0.5) else [n.name for n in CATALOG])


def _replace_stem(network: nn.Module, stem: Stem) -> bool:
    """Gives the first convolution a 3x3 kernel and removes the first max-pool. Returns False without such layers."""
    name, first = next(((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d)), ("", None))
    if first is None or first.in_channels != 3:
        return False
    if first.stride == (1, 1):
        return stem == "small"
    if first.kernel_size == first.stride:  # the patch embedding of a transformer
        return False
    stride, padding = (1, 1) if stem == "small" else (2, 3)
    convolution = nn.Conv2d(3, first.out_channels, 3, stride, padding, bias=first.bias is not None)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    network.set_submodule(name, convolution)
    for pool in STEM_POOLS & dict(network.named_modules()).keys():
        network.set_submodule(pool, nn.Identity())
    return True
