"""SRe2L and CDA: how slots are packed, the objective by brute force, and as a method on the command line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from ddbench_sre2l import SRe2L
from ddbench_sre2l.inversion import distill
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from ddbench.api.settings import RecoverSettings
from ddbench.api.teacher import Objective, Phase, Teacher
from ddbench.api.units import Slot, Unit
from ddbench.data.dataset import Dataset
from ddbench.distillation.context import DistillContext
from ddbench.nn.build import build_network
from ddbench.nn.taps import TappedNetwork
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache

if TYPE_CHECKING:
    from conftest import Shell

SIZE = 8


@given(classes=st.integers(1, 60), ipc=st.integers(1, 20), batch_size=st.integers(1, 80))
def test_units_hold_one_image_each_of_as_many_classes_as_fit(classes: int, ipc: int, batch_size: int) -> None:
    units = SRe2L(batch_size=batch_size).units(classes, ipc)
    slots = [slot for unit in units for slot in unit.slots]
    assert sorted(slots) == [Slot(label, index) for label in range(classes) for index in range(ipc)]
    assert [unit.index for unit in units] == list(range(len(units)))
    for unit in units:
        assert len({slot.label for slot in unit.slots}) == len(unit.slots) <= batch_size
        assert len({slot.index for slot in unit.slots}) == 1
    assert len(units) == ipc * -(-classes // batch_size)
    assert SRe2L(steps=7, batch_size=batch_size).image_passes(classes, ipc) == 7 * len(slots)


# -- the objective ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Captured(DistillContext):
    """The real task, which keeps the arguments of the recover loop instead of running it."""

    calls: list[tuple[Objective, Tensor, RecoverSettings]] = dataclasses.field(default_factory=list)

    def recover(
        self,
        unit: Unit,
        objective: Objective,
        initial: Tensor,
        settings: RecoverSettings,
        layer: int | None = None,
        networks: Sequence[Teacher] = (),
        phases: Sequence[Phase] = (),
    ) -> Tensor:
        assert not networks
        assert not phases
        self.calls.append((objective, initial, settings))
        return torch.zeros(len(unit.slots), 3, SIZE, SIZE)


@pytest.fixture(scope="module")
def digits(digits_at: Callable[..., Dataset]) -> Dataset:
    return digits_at(SIZE)


@pytest.fixture
def make_task(digits: Dataset, bare_task: Callable[..., Captured]) -> Callable[..., Captured]:
    def make(arch: str = "convnet-bn-d2") -> Captured:
        network = build_network(arch, 10, SIZE, seed=1).double()
        draw = torch.Generator().manual_seed(0)
        for name, statistic in network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                statistic.copy_(torch.rand(len(statistic), dtype=torch.float64, generator=draw))
        return bare_task(digits, TappedNetwork(network), kind=Captured, ipc=2, seed=3)

    return make


UNIT = Unit(1, tuple(Slot(label, 1) for label in (4, 5, 6)))


def brute_force(task: DistillContext, images: Tensor, weight: float, first_scale: float) -> dict[str, float]:
    """The loss as the paper writes it, class by class and channel by channel, in float64."""
    network: Any = task.teacher.network
    probabilities = network(images).softmax(1)
    cross_entropy = sum(-float(probabilities[row, slot.label].log()) / 3 for row, slot in enumerate(UNIT.slots))
    alignment, maps, first = 0.0, images, True
    for layer in network.features:
        if isinstance(layer, torch.nn.BatchNorm2d):
            mean_error, variance_error = 0.0, 0.0
            for channel in range(maps.shape[1]):
                values = maps[:, channel].flatten().tolist()  # every image and position
                mean = sum(values) / len(values)
                variance = sum((value - mean) ** 2 for value in values) / len(values)
                mean_error += (mean - float(layer.running_mean[channel])) ** 2  # type: ignore[index]
                variance_error += (variance - float(layer.running_var[channel])) ** 2  # type: ignore[index]
            alignment += (first_scale if first else 1) * (mean_error**0.5 + variance_error**0.5)
            first = False
        maps = layer(maps)
    return {"cross_entropy": cross_entropy, "bn": weight * alignment}


@pytest.mark.parametrize(
    ("method", "weight", "first_scale"), [(SRe2L(), 0.01, 10), (SRe2L(bn_weight=2, first_bn_scale=3), 2, 3)]
)
def test_the_objective_is_cross_entropy_and_the_distance_to_the_running_statistics(
    make_task: Callable[..., Captured], method: SRe2L, weight: float, first_scale: float
) -> None:
    task = make_task()
    distill(method, task, UNIT)
    ((objective, initial, settings),) = task.calls
    images = torch.randn(3, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        terms = objective(task.teacher(images))
        expected = brute_force(task, images, weight, first_scale)
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, rel=1e-6)
    assert torch.equal(initial, task.noise(UNIT))
    assert settings is method


def test_a_teacher_without_batchnorm_needs_bn_weight_0(make_task: Callable[..., Captured]) -> None:
    task = make_task("convnet-d2")
    assert "sre2l matches BatchNorm statistics, and this teacher has none" in (SRe2L().skip_teacher(0) or "")
    assert SRe2L().skip_teacher(1) is None
    assert SRe2L(bn_weight=0).skip_teacher(0) is None
    distill(SRe2L(bn_weight=0), task, UNIT)
    images = torch.randn(3, 3, SIZE, SIZE, dtype=torch.float64)
    with torch.no_grad():
        terms = task.calls[0][0](task.teacher(images))
    assert set(terms) == {"cross_entropy"}


# -- as a method among others -------------------------------------------------------------------------------


def test_recovered_images_are_recognised_and_nearer_to_the_statistics(tmp_path: Path) -> None:
    registry, cache = PluginRegistry(), Cache(tmp_path)

    def run(steps: int) -> tuple[float, float]:
        request = Request(
            methods=("sre2l",),
            datasets=("digits",),
            ipcs=(2,),
            recipes=("smoke",),
            device="cpu",
            precision="fp32",
            assignments=(
                *("data.image_size=8", "data.stored_size=8", "teacher.arch=convnet-bn-d1", "teacher.epochs=3"),
                *("method.crop_scale_min=1", "method.jitter=0", "method.bn_weight=0.1", f"method.steps={steps}"),
            ),
        )
        (cell,) = experiments(request, registry)
        made = Pipeline(Workspace(registry, cache, None), cell)
        actual, teacher = made.distilled, made.teacher
        assert actual.labels.tolist() == 2 * list(range(10))
        with torch.no_grad():
            output = teacher(made.dataset.normalise(actual.images))
        ((mean,), _) = teacher.running_statistics()
        error = float((output.bn_inputs[0].mean((0, 2, 3)) - mean).norm())
        return float((output.logits.argmax(1) == actual.labels).float().mean()), error

    before, after = run(1), run(80)
    assert after[0] > 0.9 > before[0]
    assert after[1] < before[1] / 2


METHODS = ["sre2l", "cda"]


@pytest.mark.parametrize("method", ["sre2l", pytest.param("cda", marks=pytest.mark.slow)])
def test_a_run_from_the_command_line(shell: Shell, method: str) -> None:
    outcome = shell.run("--dataset", "digits", "--method", method, "--ipc", "2")
    assert f"{method}-digits-ipc2" in outcome.out
    (record,) = (json.loads(path.read_text()) for path in (shell.results / "records").glob("*.json"))
    assert (record["method"], record["distilled_images"]) == (method, 20)
    units = [load_file(path) for path in (shell.cache / "distill").glob("*.safetensors")]
    assert [unit["labels"].tolist() for unit in units] == [list(range(10))] * 2
    assert not torch.equal(units[0]["images"], units[1]["images"])


@pytest.mark.parametrize("method", METHODS)
def test_a_teacher_without_batchnorm_is_refused_before_it_is_trained(shell: Shell, method: str) -> None:
    smoke = ("--dataset", "digits", "--recipe", "smoke")
    outcome = shell("run", *smoke, "--method", method, "--ipc", "1", "--arch", "convnet-d3")
    assert outcome.code == 2
    assert [line for line in outcome.errors if line.startswith("ddbench: ")] == outcome.errors[-1:]
    assert outcome.errors[-1].startswith(f"ddbench: {method} matches BatchNorm statistics, and this teacher has none")
    assert f"--set {method}.bn_weight=0" in outcome.errors[-1]
    assert not list(shell.cache.glob("teacher/*"))
