"""The protocol of CV-DD: labels by hand in float64, its settings, its learning rates, its recipes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from ddbench.augment.views import batch_slices
from ddbench.core.errors import DDBenchError
from ddbench.evaluators.committee import CommitteeLabels
from ddbench.evaluators.labels import teacher_logits
from ddbench.evaluators.protocols import KnowledgeDistillation
from ddbench.nn.build import build_network
from ddbench.nn.layers import batch_norms
from ddbench.nn.taps import TappedNetwork
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry

if TYPE_CHECKING:
    from tests.unit.evaluators.conftest import WatchedTask

POOL = ("convnet-bn-d1", "convnet-bn-d2")
SMALL: dict[str, Any] = {"teachers": POOL, "epochs": 2, "batch_size": 8}


def teacher(name: str, seed: int) -> TappedNetwork:
    """A network in float64 whose running statistics are far from those of any batch."""
    network = build_network(name, 10, 8, seed=seed).double()
    for layer in batch_norms(network).values():
        assert layer.running_mean is not None
        layer.running_mean.fill_(3)
    return TappedNetwork(network)


def by_hand(network: TappedNetwork, images: Tensor) -> Tensor:
    """The logits of a ConvNet layer by layer; each BatchNorm layer has the statistics of the batch."""
    x = images
    for layer in network.network.features.children():
        if isinstance(layer, torch.nn.BatchNorm2d):
            mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
            scale, shift = (parameter.view(1, -1, 1, 1) for parameter in (layer.weight, layer.bias))
            x = (x - mean) / (variance + layer.eps).sqrt() * scale + shift
        else:
            x = layer(x)
    return network.network.classifier(x.flatten(1))


@pytest.fixture
def committee(make_task: Callable[..., WatchedTask]) -> tuple[WatchedTask, dict[str, TappedNetwork]]:
    networks = {name: teacher(name, seed) for seed, name in enumerate(POOL)}
    return make_task(teachers=lambda *names: [networks[name] for name in names]), networks


def test_a_label_is_the_weighted_mean_with_the_statistics_of_its_batch(
    committee: tuple[WatchedTask, dict[str, TappedNetwork]],
) -> None:
    task, networks = committee
    states = {name: {key: value.clone() for key, value in n.state_dict().items()} for name, n in networks.items()}
    images = torch.randn(6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = CommitteeLabels(priors=(60, 50), **SMALL).teacher_weights()
    assert weights == pytest.approx((math.e / (math.e + 1), 1 / (math.e + 1)), rel=1e-12)
    first, second = (by_hand(network, images) for network in networks.values())
    expected = (math.e * first + second) / (math.e + 1)
    actual = teacher_logits(task, images, POOL, weights, of_batch=True)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=1e-6)
    halves = torch.cat([teacher_logits(task, half, POOL, weights, of_batch=True) for half in images.split(3)])
    assert not torch.allclose(halves, actual, atol=0.01)
    running = teacher_logits(task, images, POOL, weights)
    assert not torch.allclose(running, actual, atol=0.01)
    for name, network in networks.items():
        assert not any(module.training for module in network.modules())
        for key, value in network.state_dict().items():
            assert torch.equal(value, states[name][key])


def test_stored_labels_are_the_online_ones_and_those_of_whole_batches(make_task: Callable[..., WatchedTask]) -> None:
    online, stored = (
        CommitteeLabels(labels=labels, priors=(60, 50), **SMALL).evaluate(make_task(teacher="convnet-bn-d1"))
        for labels in ("online", "stored")
    )
    assert online == stored
    # A view: ten fp16 logits, order and partner int32, four int16, a flip; a batch: four int16. As fkd.
    assert online.label_bytes == 2 * (20 * (20 + 4 + 4 + 8 + 1) + 3 * 8)
    source = CommitteeLabels(**SMALL).label_source(make_task(teacher="convnet-bn-d1"))
    part = next(iter(source.batches(source.views(0), lambda batch: slice(batch.start, batch.stop - 1))))
    with pytest.raises(DDBenchError, match=r"evaluator\.labels=stored"):
        source.losses(0, part)


def test_fkd_with_statistics_of_the_batch_is_the_protocol_with_one_teacher(
    make_task: Callable[..., WatchedTask],
) -> None:
    task, other = (make_task(teacher="convnet-bn-d1") for _ in range(2))
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 8}
    KnowledgeDistillation(label_statistics="batch", **settings).evaluate(task)
    CommitteeLabels(teachers=(), schedule="cosine", **settings).evaluate(other)
    for one, same in zip(task.students[0].parameters(), other.students[0].parameters(), strict=True):
        assert torch.equal(one, same)
    assert "label_statistics" not in KnowledgeDistillation().model_dump()
    assert KnowledgeDistillation(label_statistics="batch").model_dump()["label_statistics"] == "batch"


@pytest.mark.parametrize(("schedule", "period"), [("cosine", 4), ("half-cosine", 8)])
def test_learning_rates(schedule: Any, period: int, make_task: Callable[..., WatchedTask]) -> None:
    rates: list[float] = []
    task = make_task(
        teacher="convnet-bn-d1", report=lambda step, total, **metrics: rates.append(metrics["learning_rate"])
    )
    CommitteeLabels(**{**SMALL, "epochs": 4}, schedule=schedule, learning_rate=0.5).evaluate(task)
    expected = [0.25 * (1 + math.cos(math.pi * epoch / period)) for epoch in range(4)]
    assert sorted({round(rate, 9) for rate in rates}, reverse=True) == pytest.approx(expected)


FIVE = {"imagenette": (62.4, 52, 57.2, 54, 60.8), "imagenet-1k": (56.4, 42.3, 52.5, 44.2, 40.6),
        "tiny-imagenet": (46.5, 28.3, 43.6, 44.8, 41.5)}  # fmt: skip
SCHEDULES = {("imagenette", 1): 2, ("imagenette", 10): 1, ("imagenette", 50): 2, ("imagenet-1k", 10): 2,
             ("imagenet-1k", 50): 1, ("tiny-imagenet", 10): 1, ("tiny-imagenet", 50): 2}  # fmt: skip


@pytest.mark.parametrize(("cell", "eta"), SCHEDULES.items())
def test_paper_is_the_released_scripts(cell: tuple[str, int], eta: int) -> None:
    """`Jiacheng8/CV-DD`: `relabel/scripts`, `validate/train_fkd.py`."""
    request = Request(("random",), (cell[0],), (cell[1],), ("paper",), evaluators=("cv-dd",))
    (experiment,) = experiments(request, PluginRegistry())
    settings = experiment.evaluator.model_dump()
    small = cell[0] == "tiny-imagenet"
    assert settings["teachers"] == (
        "resnet18", "resnet50", f"shufflenet_v2_{'x0_5' if small else 'x1_0'}", "mobilenet_v2", "densenet121"
    )  # fmt: skip
    expected = {
        "priors": FIVE[cell[0]], "prior_temperature": 10, "label_statistics": "batch", "epochs": 300, "batch_size": 16,
        "learning_rate": 5e-4 if cell[0] == "imagenette" else 1e-3, "weight_decay": 0.01, "temperature": 20,
        "cutmix_alpha": 1, "min_crop": 0.08, "schedule": "cosine" if eta == 1 else "half-cosine",
    }  # fmt: skip
    assert {name: settings[name] for name in expected} == expected
    assert len(batch_slices(100, settings["batch_size"])) == 7
