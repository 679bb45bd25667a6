"""Networks: built by name and seed, loaded from checkpoints, and tapped for features and BatchNorm inputs."""

import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ddbench import stem
from ddbench.config import Stem
from ddbench.errors import DDBenchError, unknown
from ddbench.moments import Moments, normalised, tap
from ddbench.networks import CATALOG

SMALL_IMAGE = 32
STEM_POOLS = {"maxpool", "maxpool1", "features.pool0", "stem.pool"}  # ResNets, GoogLeNet, DenseNets, timm
CONVNET_WIDTH = 128
FEATURES = ""  # the key of the features among what is tapped: no layer has this name
SHORTCUTS = {"downsample", "shortcut"}  # ResNets of torchvision and timm


class ConvNet(nn.Module):
    """ConvNet-D of the distillation literature: `depth` blocks, then one linear layer on the flattened map.

    A block is a 3x3 convolution to 128 channels, affine instance norm (or BatchNorm), ReLU and 2x2 average
    pooling. Takes [B, 3, S, S] with S at least 2**depth; logits [B, num_classes]. Source: Gidaris and
    Komodakis, CVPR 2018, as used in DC (Zhao et al., ICLR 2021).
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
    # torch.manual_seed would also reseed every accelerator, which fork_rng(devices=[]) does not give back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def build_network(arch: str, num_classes: int, image_size: int, stem: Stem = "auto", seed: int = 0) -> nn.Module:
    """A classifier with fresh weights, float32 on the CPU, in training mode; leaves the global RNG as it was.

    arch: "resnet18" (torchvision's, else timm's), "torchvision/NAME", "timm/NAME", "convnet-d1" to "-d6" or
        "convnet-bn-d1" to "-d6".
    image_size: side of the square images [B, 3, S, S] in pixels; transformers are built for that size.
    stem: see `TeacherConfig.stem`; "auto" changes nothing in networks without a strided first convolution.
    seed: fixes every weight.
    Raises DDBenchError for an unknown name, a stem that the network has no place for, and an image size that
    it cannot take.
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

    import torchvision

    source, _, name = arch.rpartition("/")
    ours = torchvision.models.list_models(module=torchvision.models)
    if source in ("", "torchvision") and name in ours:
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
        timms: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, **options)
        return timms

    every = [*(f"torchvision/{known}" for known in ours), *(f"timm/{known}" for known in timm.list_models())]
    if source == "":
        every = [known.partition("/")[2] for known in every] + [
            f"convnet-{norm}d{depth}" for norm in ("", "bn-") for depth in range(1, 7)
        ]
    # Without a close match the error lists what is known: the catalogue, not a thousand names.
    raise unknown("network", arch, every if get_close_matches(arch, every, 1, 0.5) else [n.name for n in CATALOG])


def _replace_stem(network: nn.Module, stem: Stem) -> bool:
    """Gives the first convolution a 3x3 kernel, drops the stem's max-pool; False where there is no stem."""
    name, first = next(((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d)), ("", None))
    if first is None or first.in_channels != 3:
        return False
    if first.stride == (1, 1):
        return stem == "small"
    if first.kernel_size == first.stride:  # patches of a transformer, not a stem
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


def final_classifier(network: nn.Module) -> tuple[str, nn.Linear]:
    """Name and module of the linear layer that makes the logits: timm's `get_classifier`, else the last one.

    Raises DDBenchError where the logits come from something else (a convolution, two averaged heads).
    """
    linear = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    get_classifier: Any = getattr(network, "get_classifier", None)
    if get_classifier is not None:
        head = get_classifier()
        linear = [(name, module) for name, module in linear if module is head]
    if not linear:
        raise DDBenchError(f"{type(network).__name__} has no final linear classifier to take features from")
    return linear[-1]


def batch_norms(network: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm layers of a network by name, in the order in which it defines them."""
    return {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}


def weighted_layers(network: nn.Module) -> dict[str, nn.Module]:
    """What the number in "ResNet-18" counts: convolutions and linear layers by name, without those of shortcuts.

    In the order in which the network defines them. Layer n is the n-th, from 1; the last one is a ResNet's classifier.
    """
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and SHORTCUTS.isdisjoint(name.split("."))
    }


def check_layer(layer: int, count: int, arch: str) -> None:
    """Raises DDBenchError where a network of `count` weighted layers, called `arch`, has none of this number."""
    if not 1 <= layer <= count:
        raise DDBenchError(f"there is no layer {layer}: {arch} has layers 1 to {count}")


@dataclass(frozen=True)
class Output:
    """What one forward pass of a tapped network gives.

    logits [B, classes]; features [B, d], of the layer that was asked for; bn_inputs: [B, C, ...] each, as `bn_names`
    lists the layers, or where only their moments were asked for `ddbench.objectives.Moments`.
    """

    logits: Tensor
    features: Tensor
    bn_inputs: list[Tensor]


class TappedNetwork(nn.Module):
    """A trained classifier as an instrument: always in evaluation mode, its parameters frozen in place.

    `bn_names`: its BatchNorm layers in the order in which the network defines them, which in the catalogue is
    that of the forward pass; empty without BatchNorm. `layer_names`: its layers as `weighted_layers` counts them.
    `feature_dim`: the width of what feeds the final linear classifier. Raises DDBenchError as `final_classifier` does.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        _, classifier = final_classifier(network)
        self.network = network.requires_grad_(False)
        self.feature_dim: int = classifier.in_features
        layers = batch_norms(network)
        self.bn_names: list[str] = list(layers)
        self.layer_names: list[str] = list(weighted_layers(network))
        # What the running forward call collects, by layer; None between calls: no activation outlives one.
        self._taken: dict[str, Tensor] | None = None
        # The same of BatchNorm layers where their moments are enough.
        self._moments: dict[str, Moments] | None = None
        classifier.register_forward_pre_hook(partial(self._take, FEATURES))
        for name, layer in layers.items():
            layer.forward = partial(self._normalise, name, layer, layer.forward)  # type: ignore[method-assign]
        for module in network.modules():
            if stem.is_stem(module):
                module.forward = partial(stem.convolution, module, module.forward)  # type: ignore[method-assign]
        self.eval()

    def _take(self, name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self._taken is not None:
            self._taken[name] = inputs[0]

    def _normalise(self, name: str, layer: Any, plain: Callable[..., Tensor], x: Tensor, *more: Any) -> Tensor:
        """What a BatchNorm layer does, `plain`, when it has been looked at what comes in."""
        if self._moments is None:
            self._take(name, layer, (x,))
            return plain(x, *more)
        if x.is_cuda or not _usual(layer) or torch.compiler.is_compiling():
            x, self._moments[name] = tap(x)
            return plain(x, *more)
        scale = layer.weight * torch.rsqrt(layer.running_var + layer.eps)
        out, self._moments[name] = normalised(x, scale, layer.bias - layer.running_mean * scale)
        return out

    def train(self, mode: bool = True) -> "TappedNetwork":
        """Stays in evaluation mode: a teacher's statistics must not move."""
        return super().train(False)

    def forward(self, images: Tensor, bn: bool = True, layer: int | None = None, moments: bool = False) -> Output:
        """Logits, features and, with `bn`, BatchNorm inputs of normalised images [B, 3, S, S].

        Features are what feeds the final classifier, or with `layer` what feeds the layer of that number (see
        `weighted_layers`): maps [B, C, H, W] averaged over H and W, in float32 at least, vectors as they are. With
        `moments` there are the moments of the BatchNorm inputs in their place, taken as the images pass. Raises
        DDBenchError for a number without a layer and for a layer that takes anything else.
        """
        with nullcontext() if layer is None else self.tapping(layer):
            return self.reading(images, bn, layer, moments)

    @contextmanager
    def tapping(self, layer: int) -> Iterator[None]:
        """While the block runs, `reading` finds what feeds this layer. Raises DDBenchError as `forward`."""
        check_layer(layer, len(self.layer_names), type(self.network).__name__)
        name = self.layer_names[layer - 1]
        # For the block alone: nobody else pays for it, and a teacher is shared.
        with self.network.get_submodule(name).register_forward_pre_hook(partial(self._take, name)):
            yield

    def reading(self, images: Tensor, bn: bool, layer: int | None, moments: bool) -> Output:
        """`forward` where `layer` is tapped: what may be compiled."""
        taken: dict[str, Tensor] = {}
        found: dict[str, Moments] = {}
        self._taken, self._moments = taken, found if moments else None
        try:
            logits = self.network(images)
        finally:
            self._taken = self._moments = None
        features = taken[FEATURES] if layer is None else _pooled(taken[self.layer_names[layer - 1]], layer)
        inputs: dict[str, Any] = {**taken, **found}
        return Output(logits, features, [inputs[norm] for norm in self.bn_names] if bn else [])

    def running_statistics(self) -> tuple[list[Tensor], list[Tensor]]:
        """The network's own running means and variances, [C] each, one of `bn_names` after the other."""
        layers: list[Any] = [self.network.get_submodule(name) for name in self.bn_names]
        return [layer.running_mean for layer in layers], [layer.running_var for layer in layers]


def _usual(layer: Any) -> bool:
    """Whether this BatchNorm layer does nothing but scale and shift, by what does not change."""
    fixed = not layer.training and not any(parameter.requires_grad for parameter in layer.parameters())
    return fixed and type(layer).forward is _BatchNorm.forward and layer.affine and layer.running_var is not None


def _pooled(x: Tensor, layer: int) -> Tensor:
    """What feeds a layer, [B, C, H, W] or [B, d], as features [B, C] or [B, d]."""
    if x.ndim == 4:
        return x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
    if x.ndim != 2:
        raise DDBenchError(
            f"layer {layer} takes {list(x.shape)}: features come from maps [B, C, H, W] and vectors [B, d]"
        )
    return x


def load_checkpoint(network: nn.Module, path: Path, class_count: int) -> None:
    """Puts the weights of `path` into `network`, in place; all or nothing.

    path: .safetensors, or .pt/.pth read by torch's weights-only loader, holding a plain state dict, one under
    "model" or "state_dict", or one of a data-parallel module ("module." before every name).
    Raises DDBenchError with one line for a file that cannot be read as weights, another number of classes
    than `class_count`, missing, unexpected, misshapen or non-finite tensors.
    """
    weights = _read_weights(path)
    expected = network.state_dict()
    head = final_classifier(network)[0] + ".weight"
    if head in weights and weights[head].ndim == 2 and len(weights[head]) != class_count:
        raise DDBenchError(f"checkpoint '{path}' has {len(weights[head])} classes, the dataset {class_count}")
    # Files older than this counter do not have it, and evaluation never reads it.
    missing = [name for name in expected.keys() - weights if not name.endswith("num_batches_tracked")]
    reshaped = [name for name in expected.keys() & weights if expected[name].shape != weights[name].shape]
    faults = {
        "is missing": missing,
        "has unexpected": list(weights.keys() - expected),
        "has another shape of": reshaped,
    }
    if not any(faults.values()):  # only then is each of a size that can be looked through
        faults["has NaN or infinity in"] = [n for n, tensor in weights.items() if not tensor.isfinite().all()]
    if any(faults.values()):
        said = "; ".join(f"{what} {_some(names)}" for what, names in faults.items() if names)
        raise DDBenchError(f"checkpoint '{path}' does not fit this {type(network).__name__}: it {said}")
    network.load_state_dict(weights, strict=False)


def _is_plain(value: Tensor) -> bool:
    odd = value.is_quantized or value.is_complex()
    return value.device.type == "cpu" and value.layout == torch.strided and not odd


def check_class_order(path: Path, class_names: tuple[str, ...]) -> None:
    """Compares the class names in a safetensors file's metadata (`classes`, a JSON list), where it has them.

    Anything else under that name is a remark for people and is not read. Raises DDBenchError where the names
    are not the dataset's, in its order.
    """
    if path.suffix != ".safetensors":
        return
    with safetensors.safe_open(str(path), framework="pt") as handle:
        text = (handle.metadata() or {}).get("classes", "")
    try:
        classes = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(classes, list) and classes != list(class_names):
        raise DDBenchError(f"teacher.checkpoint {path}: its classes are not the dataset's, in the dataset's order")


def _some(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _refuse_compressed(path: Path) -> None:
    """torch stores weights as they are: what is compressed was made by others, and may unpack to any size."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if any(part.compress_type != zipfile.ZIP_STORED for part in file.infolist()):
                raise ValueError("its parts are compressed, which torch does not do")


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DDBenchError(f"checkpoint '{path}' is not a file")
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise DDBenchError(f"checkpoint '{path}' is neither .safetensors nor .pt/.pth")
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            _refuse_compressed(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch's, on what it then refuses
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file raises, the person needs one line
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        if type(error).__name__ == "UnpicklingError":  # torch's text advises to switch the protection off
            reason = "it is damaged or holds more than tensors, and nothing else is ever loaded"
        raise DDBenchError(f"checkpoint '{path}' cannot be read as weights: {reason}") from error
    for wrapper in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) and _is_plain(value) for name, value in content.items()
    ):
        raise DDBenchError(f"checkpoint '{path}' holds no state dict of tensors")
    prefix = "module." if content and all(name.startswith("module.") for name in content) else ""
    return {name.removeprefix(prefix): value for name, value in content.items()}
