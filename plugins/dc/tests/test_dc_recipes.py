"""The recipes say what the released code of DC and DSA says, and quick is said to be far below it."""

from __future__ import annotations

from typing import Any

import pytest
from ddbench_dc import DC

from ddbench.config.recipes import load_file
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry

RELEASED = {"iterations": 1000, "real_batch": 256, "learning_rate": 0.1, "momentum": 0.5}
RELEASED |= {"network_learning_rate": 0.01, "network_batch": 256}
OWN: dict[str, dict[str, Any]] = {
    "dc": {"initial": "noise", "network_momentum": 0.5},
    "dsa": {"initial": "real", "network_momentum": 0, "strategy": "color_crop_cutout_flip_scale_rotate"},
}


def resolved(method: str, dataset: str, recipe: str, ipc: int = 10) -> tuple[dict[str, Any], DC, int]:
    request = Request(methods=(method,), datasets=(dataset,), ipcs=(ipc,), recipes=(recipe,))
    (cell,) = experiments(request, PluginRegistry())
    settings = cell.method
    assert isinstance(settings, DC)
    return settings.model_dump(), settings, cell.data.image_size


@pytest.mark.parametrize("method", ["dc", "dsa"])
@pytest.mark.parametrize(
    ("dataset", "network"),
    [("tiny-imagenet", "convnet-d4"), ("imagenette", "convnet-d6"), ("imagenet-1k", "convnet-d6")],
)
def test_paper_is_the_released_code(method: str, dataset: str, network: str) -> None:
    actual, settings, size = resolved(method, dataset, "paper")
    assert actual == {**RELEASED, **OWN[method], "network": network, "outer_loop": None, "inner_loop": None}
    assert settings.loops(10) == (10, 50)
    assert size == (64 if dataset == "tiny-imagenet" else 224)


@pytest.mark.parametrize("method", ["dc", "dsa"])
@pytest.mark.parametrize(
    ("dataset", "expected"), [("cifar10", 32), ("cifar100", 32), ("svhn", 32), ("fashion-mnist", 28)]
)
def test_paper_is_the_released_code_at_28_and_32_pixels(method: str, dataset: str, expected: int) -> None:
    """`main.py`, `utils.py` (`get_dataset`, `get_loops`) and `readme.md` of VICO-UoE/DatasetCondensation."""
    actual, settings, size = resolved(method, dataset, "paper")
    own = dict(OWN[method])
    if method == "dsa" and dataset == "svhn":
        own["strategy"] = "color_crop_cutout_scale_rotate"
    assert actual == {**RELEASED, **own, "network": "convnet-d3", "outer_loop": None, "inner_loop": None}
    assert [settings.loops(ipc) for ipc in (1, 10, 50)] == [(1, 1), (10, 50), (50, 10)]
    assert size == expected


@pytest.mark.parametrize(
    ("recipe", "epochs"),
    [("paper", {"dc": 300, "dsa": 1000}), ("quick", {"dc": 300, "dsa": 300}), ("smoke", {"dc": 3, "dsa": 3})],
)
@pytest.mark.parametrize(("dataset", "flip"), [("imagenette", "flip_"), ("svhn", "")])
def test_students_are_those_of_the_released_code(recipe: str, epochs: dict[str, int], dataset: str, flip: str) -> None:
    """`utils.py`: `evaluate_synset` for both, `get_daparam` without augmentation for DC; `smoke` keeps flips."""
    strategies = {"dc": None, "dsa": f"color_crop_cutout_{flip if recipe != 'smoke' else 'flip_'}scale_rotate"}
    request = Request(tuple(epochs), (dataset,), (10,), (recipe,))
    for cell in experiments(request, PluginRegistry()):
        assert cell.evaluator_name == "dsa"
        assert cell.student == (
            "convnet-d6" if cell.data.image_size == 224 else f"convnet-d{3 + (cell.data.image_size == 64)}"
        )
        assert cell.evaluator.model_dump() == {
            **{"epochs": epochs[cell.method_name], "batch_size": 256, "learning_rate": 0.01, "momentum": 0.9},
            **{"weight_decay": 5e-4, "strategy": strategies[cell.method_name]},
        }


@pytest.mark.parametrize("method", ["dc", "dsa"])
@pytest.mark.parametrize(
    "dataset", ["digits", "cifar10", "cifar100", "fashion-mnist", "svhn", "imagenette", "tiny-imagenet", "imagenet-1k"]
)
def test_quick_is_far_below_the_paper_and_its_network_fits_the_images(method: str, dataset: str) -> None:
    _, settings, size = resolved(method, dataset, "quick")
    depth = int(settings.network.removeprefix("convnet-d"))
    assert size // 2**depth == (2 if size == 16 else 4)
    assert settings.image_passes(10, 10) < type(settings)().image_passes(10, 10) / 100
    (quick,) = (recipe for recipe in _recipes() if recipe.name == "quick")
    assert "far below the papers' budget" in quick.about


def test_digits_are_not_flipped_in_quick() -> None:
    for dataset in ("digits", "svhn"):
        assert "flip" not in resolved("dsa", dataset, "quick")[0]["strategy"].split("_")
    assert "flip" in resolved("dsa", "cifar10", "quick")[0]["strategy"].split("_")


def _recipes() -> list[Any]:
    paths = [path for path in PluginRegistry().recipe_files() if path.parent.parent.name == "ddbench_dc"]
    assert [path.stem for path in paths] == ["paper", "quick", "smoke"]
    return [load_file(path) for path in paths]


def test_every_block_is_for_this_plugins_methods_alone() -> None:
    for recipe in _recipes():
        for block in recipe.blocks:
            assert set(block.applies["method"]) <= {"dc", "dsa"}
