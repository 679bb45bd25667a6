"""The optimisers of the training loop: the steps of PyTorch's fused optimisers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from ddbench.api.settings import TrainingSettings
from ddbench.nn.build import build_network
from ddbench.training import optimizers


def network() -> nn.Module:
    """3 x 3 and 1 x 1 convolutions, with biases, a norm and a linear layer; and weights that no step reaches."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(
            nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.Conv2d(7, 5, 1), nn.Flatten(), nn.Linear(5 * 36, 4)
        )
        layers.idle = nn.Conv2d(4, 3, 3)
    return layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def backward(layers: nn.Module, number: int) -> None:
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(number))
    layers.zero_grad()
    out = images.contiguous(memory_format=torch.channels_last)
    for name, layer in layers.named_children():
        out = out if name == "idle" else layer(out)
    out.square().mean().backward()


@pytest.mark.parametrize("settings", [{"optimizer": "sgd", "momentum": 0.9}, {"optimizer": "adamw"}])
def test_a_step_is_that_of_the_optimiser_and_its_state_keeps_its_shape(settings: dict[str, Any]) -> None:
    chosen = TrainingSettings(epochs=1, batch_size=1, learning_rate=0.1, weight_decay=0.01, **settings)
    ours = network()
    theirs = copy.deepcopy(ours)
    optimizer = optimizers.build_optimizer(ours, chosen)
    rest = {"lr": 0.1, "weight_decay": 0.01, "fused": True}
    kind: Any = torch.optim.SGD if "momentum" in settings else torch.optim.AdamW
    plain = kind(theirs.parameters(), **rest, **({"momentum": 0.9} if "momentum" in settings else {}))
    before = copy.deepcopy(ours)
    for number in range(4):
        backward(ours, number)
        backward(theirs, number)
        optimizer.step()
        plain.step()
    pairs = list(zip(ours.parameters(), theirs.parameters(), strict=True))
    for a, b in pairs:
        assert torch.equal(a, b)
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or torch.equal(a.grad, b.grad)  # type: ignore[arg-type]
        assert a.is_contiguous(memory_format=torch.channels_last) or a.ndim != 4
        state = plain.state.get(b, {})
        assert optimizer.state.get(a, {}).keys() == state.keys()
        assert all(torch.equal(optimizer.state[a][name], value) for name, value in state.items())
    moved = [not torch.equal(a, b) for a, b in zip(ours.parameters(), before.parameters(), strict=True)]
    assert moved == [a.grad is not None for a, _ in pairs]


def decayed_by_sre2l(layers: nn.Module) -> list[str]:
    """The rule of `VILA-Lab/SRe2L:SRe2L/validate/utils.py: get_parameters`, written anew."""
    return [name for name, p in layers.named_parameters() if name.find("weight") >= 0 and len(p.size()) > 1]


@pytest.mark.parametrize(
    ("arch", "free"),
    [
        ("vit_tiny_patch16_224", ["cls_token", "pos_embed"]),
        ("resnet18", []),
        ("mobilenet_v2", []),
        ("convnet-d3", []),
        ("convnet-bn-d3", []),
    ],
)
def test_weight_decay_acts_on_the_parameters_of_sre2ls_rule(arch: str, free: list[str]) -> None:
    """In the order of the network. `free`: those of at least two dimensions without decay."""
    layers = build_network(arch, 10, 32)
    names = {id(parameter): name for name, parameter in layers.named_parameters()}
    settings = TrainingSettings(epochs=1, optimizer="adamw", weight_decay=0.01, decay_vectors=False)
    groups = optimizers.build_optimizer(layers, settings).param_groups
    decayed, undecayed = ([names[id(parameter)] for parameter in group["params"]] for group in groups)
    assert [group["weight_decay"] for group in groups] == [0.01, 0]
    assert decayed == decayed_by_sre2l(layers)
    assert sorted(decayed + undecayed) == sorted(names.values())
    matrices = [name for name, parameter in layers.named_parameters() if parameter.ndim >= 2]
    assert [name for name in matrices if name not in decayed] == free
    everything = optimizers.build_optimizer(layers, settings.model_copy(update={"decay_vectors": True})).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in everything] == [(len(names), 0.01)]
