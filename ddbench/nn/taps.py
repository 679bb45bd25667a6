"""Features and BatchNorm inputs of a trained network, collected during its forward pass."""

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
from ddbench.nn.batchnorm_moments import Moments, normalise_with_moments, tap_moments
from ddbench.nn.layers import batch_norms, check_layer, final_classifier, weighted_layers

_FEATURES = ""
"""Key of the input of the classifier among the collected inputs. No layer has this name."""


class TappedNetwork(nn.Module):
    """A frozen classifier that returns features and BatchNorm inputs besides its logits.

    It is always in evaluation mode, and the parameters of the given network are frozen in place.

    Args:
        network: The trained classifier. The `forward` methods of its BatchNorm layers and of its strided first
            convolution are replaced.

    Attributes:
        network: The given network.
        bn_names: Names of the BatchNorm layers in the order of definition. For the networks of the catalogue this is
            the order of the forward pass. Empty without BatchNorm.
        layer_names: Names of the layers that `weighted_layers` counts.
        feature_dim: Width of the input of the final linear classifier.

    Raises:
        DDBenchError: The network has no final linear classifier; see `final_classifier`.

    Example:
        >>> from ddbench.nn.build import build_network
        >>> teacher = TappedNetwork(build_network("convnet-bn-d2", num_classes=3, image_size=8))
        >>> output = teacher(torch.zeros(4, 3, 8, 8))
        >>> output.logits.shape, output.features.shape, len(output.bn_inputs)
        (torch.Size([4, 3]), torch.Size([4, 512]), 2)
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        _, classifier = final_classifier(network)
        self.network = network.requires_grad_(False)
        self.feature_dim: int = classifier.in_features
        layers = batch_norms(network)
        self.bn_names: list[str] = list(layers)
        self.layer_names: list[str] = list(weighted_layers(network))
        # The inputs that the current forward pass collects, by layer. None between passes, so that no activation is
        # kept.
        self._inputs: dict[str, Tensor] | None = None
        # The moments of BatchNorm inputs, collected instead of the inputs. None if the inputs are needed.
        self._moments: dict[str, Moments] | None = None
        classifier.register_forward_pre_hook(partial(self._collect, _FEATURES))
        for name, layer in layers.items():
            layer.forward = partial(self._normalise, name, layer, layer.forward)  # type: ignore[method-assign]
        for module in network.modules():
            if cpu.is_strided_conv(module):
                module.forward = partial(cpu.strided_conv, module, module.forward)  # type: ignore[method-assign]
        self.eval()

    def _collect(self, name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self._inputs is not None:
            self._inputs[name] = inputs[0]

    def _normalise(self, name: str, layer: Any, forward: Callable[..., Tensor], x: Tensor, *args: Any) -> Tensor:
        """Runs a BatchNorm layer by its original `forward`, and collects its input or the moments of its input."""
        if self._moments is None:
            self._collect(name, layer, (x,))
            return forward(x, *args)
        if x.is_cuda or not _only_scales(layer) or torch.compiler.is_compiling():
            x, self._moments[name] = tap_moments(x)
            return forward(x, *args)
        scale = layer.weight * torch.rsqrt(layer.running_var + layer.eps)
        out, self._moments[name] = normalise_with_moments(x, scale, layer.bias - layer.running_mean * scale)
        return out

    def train(self, mode: bool = True) -> "TappedNetwork":
        """Keeps evaluation mode: the running statistics of a teacher must not change."""
        return super().train(False)

    def forward(self, images: Tensor, bn: bool = True, layer: int | None = None, moments: bool = False) -> Output:
        """Computes logits, features and BatchNorm inputs.

        Args:
            images: Normalised images [B, 3, S, S].
            bn: Whether to return BatchNorm inputs.
            layer: Number of the layer whose input gives the features (see `weighted_layers`): maps [B, C, H, W] are
                averaged over H and W, in float32 at least; vectors are returned unchanged. None: the input of the final
                classifier.
            moments: Whether to return the moments of the BatchNorm inputs (`Moments`) instead of the inputs, which
                takes less memory.

        Returns:
            Logits [B, K], features [B, d], and one BatchNorm input for each of `bn_names` (empty without `bn`).

        Raises:
            DDBenchError: There is no layer of this number, or its input is neither a feature map nor a vector.
        """
        with nullcontext() if layer is None else self.tap_layer(layer):
            return self.tapped_forward(images, bn, layer, moments)

    @contextmanager
    def tap_layer(self, layer: int) -> Iterator[None]:
        """Collects the input of a layer while the block runs, for `tapped_forward`.

        Args:
            layer: Number of the layer, as in `weighted_layers`.

        Raises:
            DDBenchError: There is no layer of this number.
        """
        check_layer(layer, len(self.layer_names), type(self.network).__name__)
        name = self.layer_names[layer - 1]
        # The hook exists only during the block: the teacher is shared, and other callers do not need this input.
        with self.network.get_submodule(name).register_forward_pre_hook(partial(self._collect, name)):
            yield

    def tapped_forward(self, images: Tensor, bn: bool, layer: int | None, moments: bool) -> Output:
        """Computes the result of `forward` inside a `tap_layer` block for `layer`. This function is compiled.

        Args:
            images: Normalised images [B, 3, S, S].
            bn: Whether to return BatchNorm inputs.
            layer: Number of the tapped layer, or None.
            moments: Whether to return moments instead of BatchNorm inputs.

        Returns:
            See `forward`.

        Raises:
            DDBenchError: The input of the layer is neither a feature map nor a vector.
        """
        inputs: dict[str, Tensor] = {}
        bn_moments: dict[str, Moments] = {}
        self._inputs, self._moments = inputs, bn_moments if moments else None
        try:
            logits = self.network(images)
        finally:
            self._inputs = self._moments = None
        features = inputs[_FEATURES] if layer is None else _pooled(inputs[self.layer_names[layer - 1]], layer)
        collected: dict[str, Any] = {**inputs, **bn_moments}
        return Output(logits, features, [collected[name] for name in self.bn_names] if bn else [])

    def running_statistics(self) -> tuple[list[Tensor], list[Tensor]]:
        """Returns the running means and variances of the network, [C] each, in the order of `bn_names`."""
        layers: list[Any] = [self.network.get_submodule(name) for name in self.bn_names]
        return [layer.running_mean for layer in layers], [layer.running_var for layer in layers]


def _only_scales(layer: Any) -> bool:
    """Tests whether a BatchNorm layer only scales and shifts its input by constants."""
    frozen = not layer.training and not any(parameter.requires_grad for parameter in layer.parameters())
    return frozen and type(layer).forward is _BatchNorm.forward and layer.affine and layer.running_var is not None


def _pooled(x: Tensor, layer: int) -> Tensor:
    """Converts the input of a layer, [B, C, H, W] or [B, d], to features [B, C] or [B, d]."""
    if x.ndim == 4:
        return x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
    if x.ndim != 2:
        raise DDBenchError(
            f"layer {layer} has an input of shape {list(x.shape)}: features need maps [B, C, H, W] or vectors [B, d]"
        )
    return x
