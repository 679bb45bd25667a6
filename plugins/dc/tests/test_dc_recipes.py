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
