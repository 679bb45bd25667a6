"""The recipes of G-VBSM have the numbers of its scripts; method and protocol have the same teachers."""

from __future__ import annotations

import pytest
from ddbench_gvbsm import GVBSM

from ddbench.config.experiment import Experiment
from ddbench.config.recipes import load_file
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry

LARGE = ("resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5")
SMALL = ("resnet18", "convnet-d3", "mobilenet_v2", "shufflenet_v2_x0_5")


def resolved(dataset: str, *recipes: str) -> tuple[Experiment, GVBSM]:
    (cell,) = experiments(Request(("gvbsm",), (dataset,), (10,), recipes), PluginRegistry())
    assert isinstance(cell.method, GVBSM)
    return cell, cell.method


@pytest.mark.parametrize(
    ("dataset", "teachers", "rate", "batch", "padding", "ema", "drop", "patch", "size", "teacher_epochs", "student"),
    [
        ("imagenet-1k", LARGE, 0.1, 80, 0, 0.4, 0.0, 16, 224, 100, (300, 1024, "adamw", 1e-3, 0.01, 0.1)),
        ("imagenette", LARGE, 0.1, 80, 0, 0.4, 0.0, 16, 224, 100, (300, 1024, "adamw", 1e-3, 0.01, 0.1)),
        ("tiny-imagenet", SMALL, 0.05, 100, 8, 0.8, 0.4, 4, 64, 50, (100, 100, "sgd", 0.1, 5e-4, 0.1)),
        ("cifar10", SMALL, 0.05, 100, 4, 0.8, 0.4, 4, 32, 5, (1000, 100, "adamw", 1e-3, 0.0, 0.15)),
        ("cifar100", SMALL, 0.05, 100, 4, 0.8, 0.4, 4, 32, 50, (1000, 64, "sgd", 0.1, 5e-4, 0.15)),
    ],
)
def test_paper_has_the_numbers_of_the_scripts(
    dataset: str, teachers: tuple[str, ...], rate: float, batch: int, padding: int, ema: float, drop: float,
    patch: int, size: int, teacher_epochs: int, student: tuple[int, int, str, float, float, float],
) -> None:  # fmt: skip
    cell, method = resolved(dataset, "paper")
    assert method == GVBSM(
        teachers=teachers, steps=4000, learning_rate=rate, batch_size=batch, padding=padding, jitter=32, ema=ema,
        drop=drop, patch=patch,
    )  # fmt: skip
    assert (cell.data.image_size, cell.teacher.epochs, cell.evaluator_name) == (size, teacher_epochs, "gvbsm")
    settings = cell.evaluator.model_dump()
    names = ("epochs", "batch_size", "learning_rate", "weight_decay", "ce_weight")
    epochs, per_step, optimizer, *numbers = student
    assert [settings[name] for name in names] == [epochs, per_step, *numbers]
    assert settings.get("optimizer", "adamw") == optimizer
    assert (settings["schedule"], settings["ema_decay"], settings["min_crop"]) == ("cosine", 0, 0.08)


@pytest.mark.parametrize("budget", ["paper", "quick", "smoke"])
@pytest.mark.parametrize("dataset", ["digits", "cifar10", "svhn", "imagenette", "tiny-imagenet", "imagenet-1k"])
def test_images_and_labels_have_the_same_teachers(dataset: str, budget: str) -> None:
    if budget == "paper" and dataset in ("digits", "svhn"):
        pytest.skip("no sizes")
    cell, method = resolved(dataset, budget)
    assert method.teachers == cell.evaluator.teacher_pool()
    assert cell.teacher.arch in method.teachers


def test_released_starts_at_zero_and_leaves_the_rest() -> None:
    (_, paper), (_, released) = resolved("cifar10", "paper"), resolved("cifar10", "paper", "released")
    assert released == paper.model_copy(update={"ema_start": "zero", "variance": "batch-mean"})


def test_quick_is_far_below_the_paper_and_has_its_own_numbers_for_digits() -> None:
    methods = [resolved(name, "quick")[1] for name in ("imagenette", "svhn", "digits")]
    assert [method.steps for method in methods] == [500, 500, 300]
    assert [method.flip for method in methods] == [True, False, False]
    assert [method.statistics_weight for method in methods] == [0.01, 0.01, 0.1]


def test_every_block_is_for_methods_of_this_plugin_or_its_protocol() -> None:
    paths = [path for path in PluginRegistry().recipe_files() if path.parent.parent.name == "ddbench_gvbsm"]
    assert [path.stem for path in paths] == ["paper", "quick", "released", "smoke"]
    for block in (block for path in paths for block in load_file(path).blocks):
        assert set(block.applies["method"]) <= {"gvbsm", "edc"} or block.applies["evaluator"] == ["gvbsm"]
