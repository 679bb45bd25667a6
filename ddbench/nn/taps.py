"""Networks: built by name and seed, loaded from checkpoints, and tapped for features and BatchNorm inputs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ddbench.api.teacher import Output
from ddbench.core.errors import DDBenchError
from ddbench.nn import cpu
from ddbench.nn.batchnorm_moments import Moments, normalised, tap
from ddbench.nn.layers import batch_norms, check_layer, final_classifier, weighted_layers

FEATURES = ""  # the key of the features among what is tapped: no layer has this name


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
            if cpu.is_stem(module):
                module.forward = partial(cpu.convolution, module, module.forward)  # type: ignore[method-assign]
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
