"""WMDD: how slots are packed, the objective against Eq. 12 to 15 by brute force, the same bytes for a seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ddbench_wmdd import WMDD
from ddbench_wmdd.matching import barycenter, distill
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ddbench.cache import Cache, Checkpoint
from ddbench.config import DataConfig
from ddbench.data.dataset import Dataset, load_dataset
from ddbench.data.registry import ddbench_datasets
from ddbench.data.spec import DatasetInfo
from ddbench.distiller import Slot, Unit
from ddbench.models import Output, TappedNetwork
from ddbench.plugins import PluginRegistry
from ddbench.recover import Objective
from ddbench.resolve import Request, experiments
from ddbench.stages import Pipeline, Workspace
from ddbench.statistics import ClassStatistics
from ddbench.task import DistillTask

IPC = 3
SIZE = 8


@given(classes=st.integers(1, 60), ipc=st.integers(1, 60), batch_size=st.integers(1, 120))
def test_units_hold_whole_classes_and_every_slot_once(classes: int, ipc: int, batch_size: int) -> None:
    units = WMDD(batch_size=batch_size).units(classes, ipc)
    slots = [slot for unit in units for slot in unit.slots]
    assert slots == [Slot(label, index) for label in range(classes) for index in range(ipc)]
    assert [unit.index for unit in units] == list(range(len(units)))
    for unit in units:
        labels = [slot.label for slot in unit.slots]
        assert all(labels.count(label) == ipc for label in set(labels))
        if ipc > batch_size:
            assert len(set(labels)) == 1
        else:
            assert len(labels) <= batch_size
    # No batch is left smaller than it must be, but the last.
    assert len({len(unit.slots) for unit in units[:-1]}) <= 1
    assert len(units) == -(-classes // max(1, batch_size // ipc))
    assert WMDD(steps=7, batch_size=batch_size).work(classes, ipc) == 7 * len(slots)


def test_an_ipc_above_the_smallest_class_is_refused() -> None:
    info = DatasetInfo("two", ("cat", "dog"), ("cat", "dog"), (9, 4), (1, 1), SIZE, "")
    assert WMDD().skip(info, 4) is None
    assert "'dog'" in (WMDD().skip(info, 5) or "")


# -- the objective ------------------------------------------------------------------------------------------


class Small(nn.Module):
    """Two BatchNorm layers, one of them on vectors, and a linear classifier; float64."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.first = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.hidden, self.second = nn.Linear(4 * 36, 5), nn.BatchNorm1d(5)
        self.classifier = nn.Linear(5, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first(self.convolution(images)).relu()
        logits: Tensor = self.classifier(self.second(self.hidden(maps.flatten(1))).relu())
        return logits


@dataclasses.dataclass(frozen=True)
class Captured(DistillTask):
    """The real task, keeping the objective instead of running the loop."""

    objectives: list[Objective] = dataclasses.field(default_factory=list)

    def recover(self, unit: Unit, objective: Objective, initial: Tensor, settings: Any) -> Tensor:
        self.objectives.append(objective)
        return torch.zeros(len(unit.slots), 3, SIZE, SIZE)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    spec = next(spec for spec in ddbench_datasets() if spec.name == "digits")
    config = DataConfig(image_size=SIZE, stored_size=SIZE)
    return load_dataset(spec, config, None, Cache(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def make_task(digits: Dataset, tmp_path: Path) -> Callable[..., Captured]:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        teacher = TappedNetwork(Small().double())

    def statistics(label: int) -> ClassStatistics:
        draw = torch.Generator().manual_seed(label)
        return ClassStatistics(
            torch.randn(12, 5, generator=draw),
            [torch.randn(4, generator=draw), torch.randn(5, generator=draw)],
            [torch.rand(4, generator=draw), torch.rand(5, generator=draw)],
        )

    def make(seed: int = 0) -> Captured:
        return Captured(
            dataset=digits,
            ipc=IPC,
            seed=seed,
            device=torch.device("cpu"),
            precision="fp32",
            checkpoint=Checkpoint(tmp_path / "slot.safetensors"),
            checkpoint_every=100,
            report=lambda step, total, **metrics: None,
            cached=lambda name, depends_on, fn: fn(),
            statistics=statistics,
            timing={},
            _teacher=lambda: teacher,
        )

    return make


UNIT = Unit(1, tuple(Slot(label, index) for label in (2, 3) for index in range(IPC)))


def brute_force(method: WMDD, task: DistillTask, images: Tensor) -> dict[str, float]:
    """Eq. 12, 13 and 14 (or what the released code computes instead) image by image, in float64."""
    network: Any = task.teacher.network
    feature, squares, norms = 0.0, 0.0, 0.0
    number = 0
    for label in (2, 3):
        real = task.statistics(label)
        target = barycenter(method, task, label)
        inputs: list[list[Tensor]] = [[], []]
        for point in target.points:
            image = images[number : number + 1]
            maps = network.convolution(image)
            flat = network.hidden(network.first(maps).relu().flatten(1))
            found = network.second(flat).relu()[0]
            feature += sum(float(found[i] - point[i]) ** 2 for i in range(5))
            inputs[0].append(maps[0].flatten(1).T)  # positions x channels
            inputs[1].append(flat)
            number += 1
        for layer, (mean, variance) in enumerate(zip(real.bn_means, real.bn_vars, strict=True)):
            share = target.weights.double() / target.weights.double().sum()
            samples = torch.cat(inputs[layer])
            weights = torch.cat(
                [w / len(part) * torch.ones(len(part)) for w, part in zip(share, inputs[layer], strict=True)]
            )
            seen_mean = sum(w * x for w, x in zip(weights, samples, strict=True))
            seen_variance = sum(w * (x - seen_mean) ** 2 for w, x in zip(weights, samples, strict=True))
            for seen, wanted in ((seen_mean, mean), (seen_variance, variance)):
                distance = float(((seen - wanted) ** 2).sum())
                squares += distance
                norms += distance**0.5 / 2  # averaged over two classes
    return {
        "feature": feature if method.feature_form == "squared" else feature**0.5,
        "pcbn": method.bn_weight * (squares if method.bn_form == "squared" else norms),
    }


@pytest.mark.parametrize("form", ["squared", "norm"])
@pytest.mark.parametrize("solver", ["paper", "released", "lloyd"])
def test_the_objective_is_equations_12_to_15(make_task: Callable[..., Captured], solver: str, form: str) -> None:
    method = WMDD.model_validate({"solver": solver, "feature_form": form, "bn_form": form, "bn_weight": 7.0})
    task = make_task()
    result = distill(method, task, UNIT)
    images = torch.randn(6, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        terms = task.objectives[0](task.teacher(images))
        expected = brute_force(method, task, images)
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)
    weights = torch.cat([barycenter(method, task, label).weights for label in (2, 3)])
    assert result.weights is not None
    assert torch.equal(result.weights, weights)
    torch.testing.assert_close(weights.reshape(2, IPC).sum(1), torch.ones(2))
    assert (len(set(weights.tolist())) == 1) == (solver == "released")  # unequal weights but where they are fixed


def test_cross_entropy_is_added_where_it_has_a_weight_and_lambda_0_drops_pcbn(
    make_task: Callable[..., Captured],
) -> None:
    task = make_task()
    distill(WMDD(cross_entropy_weight=0.5, bn_weight=0), task, UNIT)
    images = torch.randn(6, 3, SIZE, SIZE, dtype=torch.float64)
    with torch.no_grad():
        output: Output = task.teacher(images)
        terms = task.objectives[0](output)
        own = output.logits.log_softmax(1)[torch.arange(6), torch.tensor([2, 2, 2, 3, 3, 3])]
    assert set(terms) == {"feature", "cross_entropy"}
    assert float(terms["cross_entropy"]) == pytest.approx(-0.5 * float(own.mean()), rel=1e-5)


def test_a_barycenter_depends_on_its_class_and_seed_and_not_on_the_unit(make_task: Callable[..., Captured]) -> None:
    task, method = make_task(), WMDD()
    kept: list[tuple[str, dict[str, object]]] = []
    object.__setattr__(task, "cached", lambda name, depends_on, fn: kept.append((name, dict(depends_on))) or fn())
    distill(method, task, UNIT)
    alone = make_task()
    distill(method, alone, Unit(0, UNIT.slots[IPC:]))
    images = torch.randn(6, 3, SIZE, SIZE, dtype=torch.float64)
    with torch.no_grad():
        both = float(task.objectives[0](task.teacher(images))["feature"])
        last = float(alone.objectives[0](task.teacher(images[IPC:]))["feature"])
        first = make_task()
        distill(method, first, Unit(0, UNIT.slots[:IPC]))
        rest = float(first.objectives[0](task.teacher(images[:IPC]))["feature"])
    assert both == pytest.approx(last + rest, rel=1e-6)
    assert [depends_on["class"] for _, depends_on in kept] == [2, 3]
    assert not torch.equal(barycenter(method, make_task(seed=1), 2).points, barycenter(method, task, 2).points)


# -- as a method among others -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pipeline]:
    folder = tmp_path_factory.mktemp("cache")

    def make(*assignments: str, fresh: Path | None = None, **request: Any) -> Pipeline:
        registry = PluginRegistry()
        asked = Request(
            methods=("wmdd",),
            datasets=("digits",),
            ipcs=request.pop("ipcs", (2,)),
            recipes=("smoke", *request.pop("recipes", ())),
            device="cpu",
            precision="fp32",
            assignments=(
                *("data.image_size=8", "data.stored_size=8", "teacher.arch=convnet-bn-d1", "method.steps=6"),
                *("teacher.batch_size=256", "evaluator.epochs=2", *assignments),
            ),
            **request,
        )
        (cell,) = experiments(asked, registry)
        return Pipeline(Workspace(registry, Cache(fresh or folder), None), cell)

    return make


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    run: Callable[..., Pipeline], tmp_path: Path
) -> None:
    first = run().distilled
    again = run(fresh=tmp_path).distilled
    assert torch.equal(first.images, again.images)
    assert first.digest == again.digest
    other = run(seed=1).distilled
    assert other.digest != first.digest
    assert not torch.equal(other.images, first.images)


@pytest.mark.parametrize("recipe", [(), ("released",), ("lloyd",)])
def test_a_set_is_whole_and_in_class_order(run: Callable[..., Pipeline], recipe: tuple[str, ...]) -> None:
    found = run("method.batch_size=7", recipes=recipe).distilled
    assert found.images.shape == (20, 3, 8, 8)
    assert found.images.dtype == torch.uint8
    assert found.labels.tolist() == [label for label in range(10) for _ in range(2)]
    torch.testing.assert_close(found.weights.reshape(10, 2).sum(1), torch.ones(10))
    uniform = torch.equal(found.weights, torch.full((20,), 0.5))
    assert uniform == (recipe == ("released",))
    assert float(found.images.float().std()) > 10


def test_an_ipc_above_the_batch_size_is_one_class_a_unit(run: Callable[..., Pipeline]) -> None:
    made = run("method.batch_size=5", ipcs=(6,))
    assert [len(unit.slots) for unit in made.units] == [6] * 10
    assert len(made.distilled) == 60


def test_matching_brings_features_nearer_to_the_barycenters(run: Callable[..., Pipeline]) -> None:
    def distance(made: Pipeline) -> float:
        found = made.distilled
        with torch.no_grad():
            features = made.tapped_teacher()(made.dataset.normalise(found.images)).features
        means = torch.stack([made.statistics(label).features.mean(0) for label in range(10)])
        return float((features.reshape(10, 2, -1).mean(1) - means).square().sum())

    settings = ("method.crop_scale_min=1.0", "method.jitter=0", "method.bn_weight=0")
    assert distance(run("method.steps=60", *settings)) < 0.5 * distance(run("method.steps=1", *settings))
