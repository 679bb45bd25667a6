"""EDC: each term by hand in float64, the images that it starts from, its recipes, and a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from ddbench_gvbsm import EDC, CategoryStatistics
from ddbench_gvbsm.soft_matching import AVERAGE, SoftMatchingLoss, flatness, initial_images
from torch import Tensor

from ddbench.api import Unit
from ddbench.distillation.context import DistillContext
from ddbench.methods.rded import RDED
from ddbench.nn import TappedNetwork, build_network
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry

if TYPE_CHECKING:
    from conftest import Shell
    from ddbench.data.dataset import Dataset

SIZE, PATCH = 8, 4
LAYERS = ("features.0", "features.1", "features.4", "features.5")
BATCH_NORMS = ("features.1", "features.5")


@pytest.fixture(scope="module")
def teacher() -> TappedNetwork:
    network = build_network("convnet-bn-d2", num_classes=10, image_size=SIZE, seed=1).double()
    for number, layer in enumerate(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        layer.running_mean.normal_(generator=torch.Generator().manual_seed(number))
        layer.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(number))
    return TappedNetwork(network)


def layer_inputs(teacher: TappedNetwork, view: Tensor) -> dict[str, Tensor]:
    """The inputs of the layers of a ConvNet, computed layer by layer."""
    inputs = {}
    for name, layer in teacher.network.features.named_children():
        inputs[f"features.{name}"] = view
        view = layer(view)
    return inputs


def groups(name: str, x: Tensor) -> Iterator[tuple[str, list[Tensor]]]:
    """The values that each statistic of a layer is of: of every channel, at convolutions of every patch."""
    yield "channel", [x[:, channel] for channel in range(x.shape[1])]
    if name not in BATCH_NORMS:
        corners = range(0, x.shape[-1], PATCH)
        yield "patch", [x[:, :, i : i + PATCH, j : j + PATCH] for i in corners for j in corners]


def mean_and_variance(parts: list[Tensor]) -> dict[str, Tensor]:
    values = {"mean": [part.mean() for part in parts], "variance": [part.var(correction=0) for part in parts]}
    return {moment: torch.stack(each) for moment, each in values.items()}


@pytest.fixture
def task(teacher: TappedNetwork, digits_at: Callable[..., Dataset], bare_task: Callable[..., Any]) -> DistillContext:
    """The task of digits, two images a class; the real statistics are random numbers."""
    stages: dict[str, dict[str, Tensor]] = {"convolutions": {}, "categories": {}}
    draws = torch.Generator().manual_seed(3)
    for name, x in layer_inputs(teacher, torch.zeros(1, 3, SIZE, SIZE, dtype=torch.float64)).items():
        for kind, parts in groups(name, x) if name in LAYERS else ():
            for moment in ("mean", "variance"):
                value = torch.rand(11, len(parts), dtype=torch.float64, generator=draws)
                stages["categories"][f"{name}/{kind}-{moment}"] = value[1:]
                if name not in BATCH_NORMS:
                    stages["convolutions"][f"{name}/{kind}-{moment}"] = value[0]
    task: DistillContext = bare_task(
        digits_at(SIZE), teacher, ipc=2, teachers=lambda *names: [teacher for _ in names],
        tensors=lambda stage, part=0, names=None: stages[stage],
    )  # fmt: skip
    return task


def norms(task: DistillContext, rows: dict[str, Tensor], view: Tensor, alpha: float, categories: str) -> Tensor:
    """The distance of a view, with loops over layers, classes, channels and patches. `rows` are images by class."""
    total = torch.zeros((), dtype=torch.float64)
    means, variances = task.teacher.running_statistics()
    running = {
        f"{name}/channel": {"mean": mean, "variance": variance}
        for name, mean, variance in zip(BATCH_NORMS, means, variances, strict=True)
    }
    everything, classes = task.tensors("convolutions"), task.tensors("categories")
    for name, x in layer_inputs(task.teacher, view).items():
        for kind, parts in groups(name, x) if name in LAYERS else ():
            actual, scale = mean_and_variance(parts), 10.0 if name == LAYERS[0] else 1.0
            for moment in ("mean", "variance"):
                key = f"{name}/{kind}-{moment}"
                real = running[f"{name}/{kind}"][moment] if name in BATCH_NORMS else everything[key]
                total = total + scale * alpha * (actual[moment] - real).square().sum().sqrt()
                if categories == "mean":
                    real = torch.stack([classes[key][int(label)] for label in rows]).mean(0)
                    total = total + scale * (1 - alpha) * (actual[moment] - real).square().sum().sqrt()
                    continue
                for label, own in rows.items():
                    of_class = mean_and_variance([part[own] for part in parts])[moment]
                    size = (of_class - classes[key][int(label)]).square().sum().sqrt()
                    total = total + scale * (1 - alpha) * size / len(rows)
    return total


@pytest.mark.parametrize("categories", ["each", "mean"])
def test_the_statistics_of_all_images_and_of_classes_are_matched_with_their_gradient(
    task: DistillContext, categories: Any
) -> None:
    method = EDC(teachers=("a",), alpha=0.3, categories=categories, batch_size=6, flatness_weight=0, crop_scale_min=1,
                 flip=False)  # fmt: skip
    unit = method.units(10, 2)[1]  # the classes 3, 4 and 5
    draws = torch.Generator().manual_seed(5)
    images, copy = (torch.randn(6, 3, SIZE, SIZE, dtype=torch.float64, generator=draws) for _ in range(2))
    copy.copy_(images)
    terms = SoftMatchingLoss(method, task, unit)(images.requires_grad_(), 0)
    rows = {str(label): torch.tensor([2 * place, 2 * place + 1]) for place, label in enumerate((3, 4, 5))}
    view = task.view(unit, copy.requires_grad_(), method, 0)
    expected = method.statistics_weight * norms(task, rows, view, 0.3, categories)
    assert terms.keys() == {"cross_entropy", "statistics"}
    assert float(terms["statistics"].detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    terms["statistics"].backward()
    expected.backward()
    torch.testing.assert_close(images.grad, copy.grad, rtol=1e-7, atol=1e-10)


def test_flatness_compares_with_the_average_of_the_earlier_images(task: DistillContext) -> None:
    method = EDC(teachers=("a", "a"), flatness_weight=0.25, flatness_decay=0.9, temperature=4, jitter=2)
    (unit,) = method.units(10, 2)
    loss, draws = SoftMatchingLoss(method, task, unit), torch.Generator().manual_seed(5)
    steps = [torch.randn(20, 3, SIZE, SIZE, dtype=torch.float64, generator=draws) for _ in range(3)]
    values = [loss(images, step)["flatness"].item() for step, images in enumerate(steps)]
    average = steps[0]
    for step, (images, value) in enumerate(zip(steps, values, strict=True)):
        p, q = (
            (task.teacher(task.view(unit, batch, method, step)).logits / 4).softmax(1).tolist()
            for batch in (images, average)
        )
        divergences = [sum(a * math.log(a / b) for a, b in zip(*pair, strict=True)) for pair in zip(p, q, strict=True)]
        assert value == pytest.approx(0.25 * sum(divergences) / 20, rel=1e-9, abs=1e-15)
        average = 0.9 * average + 0.1 * images
    assert values[0] == 0 < values[1]
    torch.testing.assert_close(loss.state[AVERAGE], average)


def test_the_target_of_the_flatness_is_a_constant_of_the_images() -> None:
    logits = torch.tensor([[1.0, -1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    flatness(logits, torch.zeros(1, 3, dtype=torch.float64), 2.0).backward()
    p = (logits.detach() / 2).softmax(1)
    entropy = (p * p.log()).sum()
    # d KL / d z_i = p_i (log p_i - log q_i - KL) / temperature, and q is uniform.
    torch.testing.assert_close(logits.grad, p * (p.log() - entropy) / 2)


def test_it_starts_from_the_images_of_rded_or_from_random_real_images(
    task: DistillContext, digits_at: Callable[..., Dataset]
) -> None:
    method = EDC(teachers=("a",), batch_size=6)
    single = TappedNetwork(build_network("convnet-bn-d2", num_classes=10, image_size=SIZE, seed=1))
    task = dataclasses.replace(task, _teacher=lambda: single)
    unit = method.units(10, 2)[1]
    rded = [RDED().distill(task, Unit(0, unit.slots[first : first + 2])).images for first in (0, 2, 4)]
    expected = task.dataset.normalise(torch.cat([images for images in rded if images is not None]))
    assert torch.equal(initial_images(method, task, unit), expected)
    few = method.model_copy(update={"candidates": 1})  # too few: as many as there are crops
    assert initial_images(few, task, unit).shape == expected.shape
    real = initial_images(method.model_copy(update={"initial": "real"}), task, unit)
    for place, image in enumerate(real):
        views = task.dataset.evaluation_view("train", task.dataset.train.of_class(3 + place // 2))
        assert (views == image).flatten(1).all(1).any()
    assert len(torch.unique(real.flatten(1), dim=0)) == 6
    noise = initial_images(method.model_copy(update={"initial": "noise"}), task, unit)
    assert torch.equal(noise, task.noise(unit))

    info = digits_at(SIZE).info
    smallest = min(info.train_counts)
    assert method.skip(info, smallest // 4) is None
    assert f"{4 * (smallest // 4 + 1)} images of each class" in (method.skip(info, smallest // 4 + 1) or "")
    assert EDC(initial="real").skip(info, smallest) is None
    assert EDC(initial="noise").skip(info, 10 * smallest) is None


class Run:
    """What the stage `categories` uses of a run, on the first two classes."""

    def __init__(self, method: EDC, dataset: Dataset, teacher: TappedNetwork) -> None:
        self.method, self.dataset, self.device = method, dataset, torch.device("cpu")
        self.info = SimpleNamespace(num_classes=2)
        self.teachers = lambda *names: [teacher for _ in names]


@pytest.mark.parametrize("variance", ["exact", "batch-mean"])
def test_the_statistics_of_a_class_are_those_of_its_images(digits_at: Callable[..., Dataset], variance: Any) -> None:
    dataset = digits_at(SIZE)
    single = TappedNetwork(build_network("convnet-bn-d2", num_classes=10, image_size=SIZE, seed=1))
    method = EDC(teachers=("a",), patch=PATCH, variance=variance)
    tensors, _ = CategoryStatistics().build(Run(method, dataset, single), 0, None)  # type: ignore[arg-type]
    rows = dataset.train.of_class(1)
    inputs = layer_inputs(single, dataset.evaluation_view("train", rows))
    for name in LAYERS:
        for kind, parts in groups(name, inputs[name].detach().double()):
            expected = mean_and_variance(parts)
            if variance == "batch-mean":
                expected["variance"] = torch.stack([part.flatten(1).var(1, correction=0).mean() for part in parts])
            for moment, value in expected.items():
                actual = tensors[f"{name}/{kind}-{moment}"]
                assert len(actual) == 2
                torch.testing.assert_close(actual[1].double(), value, rtol=1e-4, atol=1e-5)
    assert {name.rpartition("/")[0] for name in tensors} == set(LAYERS)
    assert not any("patch" in name for name in tensors if name.startswith(BATCH_NORMS))


def resolved(dataset: str, *recipes: str) -> EDC:
    (cell,) = experiments(Request(("edc",), (dataset,), (10,), recipes), PluginRegistry())
    assert isinstance(cell.method, EDC)
    assert cell.evaluator_name == "edc"
    return cell.method


FOUR = ("resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5")
SMALL = ("resnet18", "convnet-d3", "mobilenet_v2", "shufflenet_v2_x0_5")


@pytest.mark.parametrize(
    ("dataset", "varied"),
    [
        ("imagenet-1k", {"batch_size": 80, "statistics_weight": 0.1, "patch": 16}),
        ("imagenette", {"teachers": FOUR, "ema": 0.0, "patch": 16}),
        ("tiny-imagenet", {"teachers": SMALL, "initial": "real"}),
    ],
)
def test_paper_has_the_numbers_of_the_tables_and_scripts(dataset: str, varied: dict[str, Any]) -> None:
    expected = EDC(**varied)
    assert resolved(dataset, "paper") == expected
    code = {"categories": "mean", "variance": "batch-mean", "ema_start": "zero", "flatness_weight": 0.0}
    assert resolved(dataset, "paper", "released") == expected.model_copy(update=code)


def test_quick_is_tiny_imagenet_with_fewer_steps_and_teachers() -> None:
    few = ("resnet18", "shufflenet_v2_x0_5")
    quick = {name: resolved(name, "quick") for name in ("imagenette", "cifar10", "svhn", "digits")}
    assert quick["imagenette"] == EDC(teachers=few, steps=500, initial="real")
    assert {name: method.steps for name, method in quick.items()} == {
        "imagenette": 500, "cifar10": 75, "svhn": 500, "digits": 300
    }  # fmt: skip
    assert [method.flip for method in quick.values()] == [True, True, False, False]


@pytest.mark.slow
def test_a_run_from_the_command_line(shell: Shell) -> None:
    pool = "[convnet-bn-d1,convnet-d1]"
    settings = ("--arch", "convnet-bn-d1", "--set", f"edc.teachers={pool}", "--set", "evaluator.epochs=1")
    run = ("--dataset", "digits", "--method", "edc", *settings)
    outcome = shell.run(*run, "--ipc", "1")
    assert "edc-digits-ipc1" in outcome.out
    parts = {
        stage: {path.name for path in (shell.cache / stage).glob("[!.]*.safetensors")}
        for stage in ("teacher", "convolutions", "categories")
    }
    assert [len(names) for names in parts.values()] == [2, 2, 2]
    (plan,) = shell.run(*run, "--ipc", "2", "--dry-run").rows
    assert (plan["categories"], plan["distill"]) == ("cached", "to do")
