"""An objective on the teacher's outputs: its terms and its gradient, whole and in parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ddbench.core.errors import DDBenchError
from ddbench.data.dataset import Dataset
from ddbench.distillation.objective import NetworkObjective, network_objective
from ddbench.nn.build import build_network
from ddbench.nn.taps import TappedNetwork

Output = Any


@pytest.fixture(scope="module")
def teacher() -> TappedNetwork:
    return TappedNetwork(build_network("convnet-bn-d2", 10, 8, seed=3).eval())


def view() -> Tensor:
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()


def of_moments(output: Output) -> dict[str, Tensor]:
    """A norm over the batch and moments of every layer: no sum over images."""
    layers = [moments.mean.mean(0).square().sum() for moments in output.bn_inputs]
    return {
        "logits": output.logits.mean(0).norm(),
        "features": output.features.std(),
        "layers": torch.stack(layers).sum(),
    }


def of_inputs(output: Output) -> dict[str, Tensor]:
    """Needs the inputs of the layers themselves."""
    return {"layers": torch.stack([x.pow(3).mean() for x in output.bn_inputs]).sum()}


def gradient(
    teacher: TappedNetwork, bare_task: Callable[..., Any], digits: Dataset, objective: Any, at_once: int
) -> tuple[dict[str, Tensor], Tensor]:
    pixels = view()
    with network_objective(bare_task(digits, teacher), teacher, objective, None, pixels.shape) as one:
        assert isinstance(one, NetworkObjective)
        terms = one.backward(pixels, at_once)
    assert pixels.grad is not None
    assert not any(term.requires_grad for term in terms.values())
    return terms, pixels.grad


@pytest.fixture(scope="module")
def digits(digits_at: Callable[..., Dataset]) -> Dataset:
    return digits_at(8)


@pytest.mark.parametrize("at_once", [1, 4])
def test_in_parts_it_is_the_gradient_of_the_whole(
    teacher: TappedNetwork, bare_task: Callable[..., Any], digits: Dataset, at_once: int
) -> None:
    whole, expected = gradient(teacher, bare_task, digits, of_moments, 6)
    terms, actual = gradient(teacher, bare_task, digits, of_moments, at_once)
    assert terms.keys() == whole.keys()
    for name, term in terms.items():
        torch.testing.assert_close(term, whole[name])
    torch.testing.assert_close(actual, expected)


def test_an_objective_of_the_inputs_gets_them_and_cannot_be_cut(
    teacher: TappedNetwork, bare_task: Callable[..., Any], digits: Dataset
) -> None:
    terms, actual = gradient(teacher, bare_task, digits, of_inputs, 6)
    pixels = view()
    expected = of_inputs(teacher(pixels))["layers"]
    (by_hand,) = torch.autograd.grad(expected, pixels)
    torch.testing.assert_close(terms["layers"], expected.detach())
    torch.testing.assert_close(actual, by_hand)
    with pytest.raises(DDBenchError, match="needs more of the BatchNorm inputs than their moments"):
        gradient(teacher, bare_task, digits, of_inputs, 3)
