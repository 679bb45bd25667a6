"""DataDAM: attention maps and their match by hand in float64, steps against brute force, recipes, a run."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from ddbench_dm import DM
from ddbench_dm.attention import attention, attention_embedding
from torch import Tensor, nn

from ddbench.core import seeds
from ddbench.core.errors import DDBenchError
from ddbench.losses.features import mean_match
from ddbench.nn.build import build_network
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry

SIZE = 8


def by_hand(features: Tensor, power: float) -> Tensor:
    """The map of each image, place by place."""
    count, channels, height, width = features.shape
    maps = torch.zeros(count, height * width, dtype=torch.float64)
    for image in range(count):
        for row in range(height):
            for column in range(width):
                column_sum = sum(abs(float(features[image, c, row, column])) ** power for c in range(channels))
                maps[image, row * width + column] = column_sum
        maps[image] /= sum(float(value) ** 2 for value in maps[image]) ** 0.5
    return maps


@pytest.mark.parametrize("power", [1, 4])
def test_attention_maps_by_hand(power: float) -> None:
    features = torch.randn(2, 3, 2, 3, dtype=torch.float64, generator=seeds.generator("attention"))
    actual = attention(features, power)
    torch.testing.assert_close(actual, by_hand(features, power), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        attention(3 * features, power), actual, rtol=1e-12, atol=1e-12
    )  # the scale has no effect
    assert attention(features.bfloat16(), power).dtype == torch.float32
    assert not attention(torch.zeros(1, 3, 2, 2), power).any()


def released_loss(network: Any, real: Tensor, synthetic: Tensor, power: float, weight: float) -> Tensor:
    """The loss of one class as the released code adds it up, over the outputs of the ReLUs of a ConvNet."""

    def outputs(images: Tensor) -> tuple[list[Tensor], Tensor]:
        maps = []
        for layer in network.features:
            images = layer(images)
            if isinstance(layer, nn.ReLU):
                maps.append(images)
        return maps, images.flatten(1)

    (real_maps, real_output), (synthetic_maps, synthetic_output) = outputs(real), outputs(synthetic)
    loss = torch.zeros((), dtype=torch.float64)
    for layer in range(len(real_maps) - 1):
        means = []
        for maps in (real_maps[layer], synthetic_maps[layer]):
            summed = maps.abs().pow(power).sum(1).flatten(1)
            means.append((summed / summed.square().sum(1, keepdim=True).sqrt()).sum(0) / len(maps))
        loss = loss + 100 * (means[0] - means[1]).square().sum()
    return loss + 100 * weight * (real_output.mean(0) - synthetic_output.mean(0)).square().sum()


@pytest.mark.parametrize(("power", "weight"), [(4.0, 0.02), (1.0, 0.01)])
def test_the_distance_of_the_embeddings_is_the_released_loss(power: float, weight: float) -> None:
    """And its gradient in the synthetic pixels."""
    network = build_network("convnet-d3", 10, SIZE, seed=1).double()
    draws = seeds.generator("datadam")
    real, synthetic = (torch.randn(n, 3, SIZE, SIZE, dtype=torch.float64, generator=draws) for n in (5, 2))
    synthetic.requires_grad_(True)
    expected = released_loss(network, real, synthetic, power, weight)
    (gradient,) = torch.autograd.grad(expected, synthetic)
    embed = attention_embedding(network, power, weight)
    actual = mean_match(embed(synthetic), embed(real))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(torch.autograd.grad(actual, synthetic)[0], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("network", "maps"), [("convnet-d3", 64 + 16), ("convnet-bn-d2", 64), ("resnet18", None)])
def test_every_relu_but_the_last_has_a_map(network: str, maps: int | None) -> None:
    built = build_network(network, 10, SIZE, seed=1)
    images = torch.randn(4, 3, SIZE, SIZE, generator=seeds.generator("maps"))
    calls: list[int] = []
    for module in built.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _, __, output: calls.append(output[0, 0].numel()))
    embed, plain = attention_embedding(built, 4, 1), DM().embedding(built)
    with torch.no_grad():
        vectors = embed(images)
        width = plain(images).shape[1]
        assert torch.equal(vectors, embed(images))
    calls = calls[: len(calls) // 3]
    assert vectors.shape == (4, sum(calls[:-1]) + width)
    assert maps is None or sum(calls[:-1]) == maps
    torch.testing.assert_close(vectors[:, : calls[0]].norm(dim=1), torch.full((4,), 10.0))


def test_a_network_of_one_relu_is_refused() -> None:
    embed = attention_embedding(build_network("convnet-d1", 10, SIZE), 4, 1)
    with pytest.raises(DDBenchError, match="every ReLU but the last"):
        embed(torch.zeros(2, 3, SIZE, SIZE))


def settings(dataset: str, *recipes: str, ipc: int = 10) -> dict[str, Any]:
    (cell,) = experiments(Request(("datadam",), (dataset,), (ipc,), recipes), PluginRegistry())
    assert cell.evaluator_name == "dsa"
    return cell.method.model_dump()


def test_recipes_are_those_of_the_paper_and_the_released_code() -> None:
    paper, released = settings("cifar10", "paper"), settings("cifar10", "paper", "released")
    assert [paper[name] for name in ("power", "output_weight", "steps", "real_batch", "learning_rate")] == [
        *(4, 0.01, 8000, 64, 1),
    ]
    assert {name for name in paper if paper[name] != released.get(name)} <= {"power", "steps", "clamp"}
    assert (released["power"], released["steps"], released["clamp"]) == (1, 20_000, False)
    assert settings("imagenette", "paper")["output_weight"] == 0.02
    assert {settings(name, "paper", ipc=100)["learning_rate"] for name in ("cifar10", "tiny-imagenet")} == {10}
    assert [settings("imagenette", "quick", ipc=ipc)["learning_rate"] for ipc in (1, 10)] == [0.1, 1]
    quick = settings("imagenette", "quick", "released")
    assert (quick["steps"], quick["power"]) == (settings("imagenette", "quick")["steps"], 1)


@pytest.mark.slow
def test_a_run_from_the_command_line(shell: Any) -> None:
    shell.run("--method", "datadam", "--method", "dm", "--dataset", "digits", "--ipc", "2", "--image-size", "16")
    records = [json.loads(path.read_text()) for path in (shell.results / "records").glob("*.json")]
    assert {record["method"]: record["evaluator"] for record in records} == {"datadam": "dsa", "dm": "dsa"}
    assert len({record["distilled_digest"] for record in records}) == 2
