"""The recipe paper has the numbers of the authors of MTT; quick is far below them."""

from __future__ import annotations

import pytest
from ddbench_mtt import MTT

from ddbench.config.experiment import Experiment
from ddbench.config.recipes import load_file
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry


def resolved(dataset: str, ipc: int, recipe: str = "paper") -> tuple[Experiment, MTT]:
    (cell,) = experiments(Request(("mtt",), (dataset,), (ipc,), (recipe,)), PluginRegistry())
    assert isinstance(cell.method, MTT)
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


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "svhn", "imagenette", "tiny-imagenet", "imagenet-1k"])
def test_quick_is_far_below_the_paper_and_its_network_is_the_students(dataset: str) -> None:
    cell, method = resolved(dataset, 1, "quick")
    assert method.network == cell.student
    assert method.experts * method.expert_epochs <= 100 * 50 / 100
    assert method.iterations * method.student_steps <= 5000 * 20 / 20
    assert ("flip" in str(method.strategy).split("_")) == (dataset not in ("digits", "svhn"))


def test_every_block_is_for_this_method_alone() -> None:
    paths = [path for path in PluginRegistry().recipe_files() if path.parent.parent.name == "ddbench_mtt"]
    assert [path.stem for path in paths] == ["paper", "quick", "smoke"]
    assert all(block.applies["method"] == ["mtt"] for path in paths for block in load_file(path).blocks)
