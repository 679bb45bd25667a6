"""The recipe paper has the numbers of the authors of MTT and DATM; quick is far below them."""

from __future__ import annotations

from typing import Any

import pytest
from ddbench_mtt import DATM, MTT
from ddbench_mtt.base import TrajectoryMatching

from ddbench.config.experiment import Experiment
from ddbench.config.recipes import load_file
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry


def resolved(dataset: str, ipc: int, *recipes: str, method: str = "mtt") -> tuple[Experiment, TrajectoryMatching]:
    (cell,) = experiments(Request((method,), (dataset,), (ipc,), recipes or ("paper",)), PluginRegistry())
    assert isinstance(cell.method, TrajectoryMatching)
    return cell, cell.method


@pytest.mark.parametrize(
    ("dataset", "ipc", "size", "network", "n", "m", "start", "batch", "pixels", "rate", "rate_rate"),
    [
        ("cifar10", 1, 32, "convnet-d3", 50, 2, 2, None, 100, 0.01, 1e-7),
        ("cifar10", 10, 32, "convnet-d3", 30, 2, 20, None, 100, 0.001, 1e-5),
        ("cifar10", 50, 32, "convnet-d3", 30, 2, 40, None, 1000, 0.001, 1e-5),
        ("cifar100", 1, 32, "convnet-d3", 20, 3, 20, None, 1000, 0.01, 1e-5),
        ("cifar100", 10, 32, "convnet-d3", 20, 2, 20, None, 1000, 0.01, 1e-5),
        ("cifar100", 50, 32, "convnet-d3", 80, 2, 40, 125, 1000, 0.01, 1e-5),
        ("tiny-imagenet", 1, 64, "convnet-d4", 10, 2, 10, None, 10_000, 0.01, 1e-4),
        ("tiny-imagenet", 10, 64, "convnet-d4", 20, 2, 40, 200, 10_000, 0.01, 1e-4),
        ("tiny-imagenet", 50, 64, "convnet-d4", 20, 2, 40, 300, 10_000, 0.01, 1e-4),
        ("imagefruit", 1, 128, "convnet-d5", 20, 2, 10, None, 1000, 0.01, 1e-6),
        ("imagenette", 10, 128, "convnet-d5", 20, 2, 10, 20, 1000, 0.01, 1e-6),
    ],
)
def test_paper_has_the_numbers_of_the_authors(
    dataset: str, ipc: int, size: int, network: str, n: int, m: int, start: int, batch: int | None, pixels: float,
    rate: float, rate_rate: float,
) -> None:  # fmt: skip
    cell, method = resolved(dataset, ipc)
    assert (cell.data.image_size, cell.evaluator_name, cell.student) == (size, "mtt", network)
    assert method == MTT(
        network=network, student_steps=n, target_epochs=m, max_start_epoch=start, batch_size=batch,
        learning_rate=pixels, initial_rate=rate, rate_learning_rate=rate_rate,
    )  # fmt: skip
    assert (method.experts, method.expert_epochs, method.iterations) == (100, 50, 5000)
    assert cell.evaluator.model_dump()["epochs"] == 1000


CIFAR10 = {"network": "convnet-d3", "student_steps": 80, "target_epochs": 2, "expert_alpha": 0.3}
CIFAR100 = {**CIFAR10, "batch_size": 1000, "learning_rate": 1000, "label_learning_rate": 10, "expert_alpha": 1}
TINY = {**CIFAR100, "network": "convnet-d4", "student_steps": 40, "rate_learning_rate": 1e-4}


@pytest.mark.parametrize(
    ("dataset", "ipc", "window", "more"),
    [
        ("cifar10", 1, (0, 4, 4, 2000),
         {**CIFAR10, "learning_rate": 100, "label_learning_rate": 5, "rate_learning_rate": 1e-7, "max_loss": 1.1}),
        ("cifar10", 10, (0, 10, 20, 1000), {**CIFAR10, "learning_rate": 100, "label_learning_rate": 2}),
        ("cifar10", 50, (0, 20, 40, 2000), {**CIFAR10, "learning_rate": 1000, "expert_alpha": 1}),
        ("cifar10", 500, (40, 60, 60, 2000),
         {**CIFAR100, "learning_rate": 50, "student_steps": 40}),
        ("cifar10", 1000, (40, 60, 60, 2000), {**CIFAR100, "learning_rate": 50, "student_steps": 100}),
        ("cifar100", 1, (0, 10, 20, 1000), {**CIFAR100, "student_steps": 40, "target_epochs": 3}),
        ("cifar100", 10, (0, 30, 50, 2000), CIFAR100),
        ("cifar100", 50, (20, 70, 70, 2000), {**CIFAR100, "initial": "real"}),
        ("cifar100", 100, (30, 70, 70, 2000), {**CIFAR100, "learning_rate": 50}),
        ("tiny-imagenet", 1, (0, 15, 20, 2000), {**TINY, "learning_rate": 10_000}),
        ("tiny-imagenet", 10, (10, 50, 50, 2000), {**TINY, "learning_rate": 100, "batch_size": 500}),
        ("tiny-imagenet", 50, (40, 70, 70, 2000), {**TINY, "learning_rate": 100, "student_steps": 20}),
    ],
)  # fmt: skip
def test_paper_has_the_numbers_of_the_files_in_configs_of_datm_and_the_experts_of_ftd(
    dataset: str, ipc: int, window: tuple[int, int, int, int], more: dict[str, Any]
) -> None:
    cell, method = resolved(dataset, ipc, method="datm")
    assert (cell.data.image_size, cell.evaluator_name, cell.student) == (
        64 if dataset == "tiny-imagenet" else 32, "datm-dsa", method.network
    )  # fmt: skip
    names = ("min_start_epoch", "initial_max_start_epoch", "max_start_epoch", "widening_iterations")
    assert method == DATM(**dict(zip(names, window, strict=True)), **more)
    assert (method.experts, method.expert_epochs, method.iterations) == (100, 100, 10_000)


def test_released_has_one_alpha_and_the_labels_of_all_experts() -> None:
    _, paper = resolved("cifar100", 10, method="datm")
    _, released = resolved("cifar100", 10, "paper", "released", method="datm")
    assert released == paper.model_copy(update={"expert_alpha": 0.3, "label_experts": 100})


@pytest.mark.parametrize("name", ["mtt", "datm"])
@pytest.mark.parametrize("dataset", ["digits", "cifar10", "svhn", "imagenette", "tiny-imagenet", "imagenet-1k"])
def test_quick_is_far_below_the_paper_and_its_network_is_the_students(dataset: str, name: str) -> None:
    cell, method = resolved(dataset, 1, "quick", method=name)
    assert method.network == cell.student
    assert method.experts * method.expert_epochs <= 100 * 50 / 100
    assert method.iterations * method.student_steps <= 5000 * 20 / 20
    assert ("flip" in str(method.strategy).split("_")) == (dataset not in ("digits", "svhn"))


def test_every_block_is_for_these_methods_alone() -> None:
    paths = [path for path in PluginRegistry().recipe_files() if path.parent.parent.name == "ddbench_mtt"]
    assert [path.stem for path in paths] == ["paper", "quick", "released", "smoke"]
    assert all({*block.applies["method"]} <= {"mtt", "datm"} for path in paths for block in load_file(path).blocks)
