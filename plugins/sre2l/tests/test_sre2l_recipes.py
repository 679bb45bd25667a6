"""The recipes say what the released scripts say, and where nothing is given, what is said in their source."""

from __future__ import annotations

from typing import Any

import pytest
from ddbench_sre2l import SRe2L

from ddbench.config.experiment import Experiment
from ddbench.config.recipes import load_file
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry

RELEASED = {"betas": (0.5, 0.9), "batch_size": 100, "first_bn_scale": 10, "crop_scale_min": 0.08}


def resolved(method: str, dataset: str, recipe: str) -> Experiment:
    request = Request(methods=(method,), datasets=(dataset,), ipcs=(10,), recipes=(recipe,))
    (cell,) = experiments(request, PluginRegistry())
    return cell


def settings(method: str, dataset: str, recipe: str) -> dict[str, Any]:
    actual = resolved(method, dataset, recipe).method
    assert isinstance(actual, SRe2L)
    return actual.model_dump()


PAPER = [
    ("sre2l", "imagenet-1k", 0.25, 0.01, 4000, 32),
    ("sre2l", "tiny-imagenet", 0.1, 1, 4000, 4),
    ("sre2l", "imagenette", 0.25, 0.01, 2000, 32),
    ("cda", "imagenet-1k", 0.25, 0.01, 4000, 32),
    ("cda", "tiny-imagenet", 0.4, 0.05, 4000, 4),
    ("cda", "imagenette", 0.25, 0.01, 2000, 32),
]


@pytest.mark.parametrize(("method", "dataset", "rate", "weight", "steps", "jitter"), PAPER)
def test_paper_is_the_released_scripts(
    method: str, dataset: str, rate: float, weight: float, steps: int, jitter: int
) -> None:
    varied = {"learning_rate": rate, "bn_weight": weight, "steps": steps, "jitter": jitter}
    if (method, dataset) == ("sre2l", "tiny-imagenet"):
        varied["centred_jitter"] = True  # recover_tiny.py alone: random.randint(-args.jitter, args.jitter)
    assert settings(method, dataset, "paper") == {**RELEASED, **varied, "crop_per_image": False}
    cell = resolved(method, dataset, "paper")
    assert (cell.data.image_size, cell.evaluator_name) == (64 if dataset == "tiny-imagenet" else 224, "fkd")


QUICK: list[tuple[str, str, dict[str, Any]]] = [
    ("sre2l", "tiny-imagenet", {"learning_rate": 0.1, "bn_weight": 1, "jitter": 4, "centred_jitter": True}),
    ("cda", "tiny-imagenet", {"learning_rate": 0.4, "bn_weight": 0.05, "jitter": 4}),
]
for name in ("sre2l", "cda"):
    QUICK += [(name, dataset, {}) for dataset in ("imagenette", "imagenet-1k")]
    QUICK += [(name, dataset, {"jitter": 4}) for dataset in ("cifar10", "cifar100", "fashion-mnist")]
    QUICK += [(name, "svhn", {"jitter": 4, "flip": False})]
    QUICK += [(name, "digits", {"jitter": 2, "steps": 300, "flip": False})]


@pytest.mark.parametrize(("method", "dataset", "varied"), QUICK)
def test_quick_takes_the_steps_of_wmdd(method: str, dataset: str, varied: dict[str, Any]) -> None:
    usual = {"learning_rate": 0.25, "bn_weight": 0.01, "steps": 500, "jitter": 8, "crop_per_image": True}
    actual = settings(method, dataset, "quick")
    assert actual == {**RELEASED, **usual, **varied}
    other = resolved("wmdd", dataset, "quick").method.model_dump()
    assert [actual[name] for name in ("steps", "batch_size")] == [other[name] for name in ("steps", "batch_size")]


def test_every_block_is_for_this_plugins_methods_alone() -> None:
    paths = [path for path in PluginRegistry().recipe_files() if path.parent.parent.name == "ddbench_sre2l"]
    assert [path.stem for path in paths] == ["paper", "quick", "released", "smoke", "sre2l-plus-plus"]
    for recipe in map(load_file, paths):
        for block in recipe.blocks:
            methods = block.applies.get("method", block.applies.get("evaluator", ()))
            assert set(methods) <= {"sre2l", "cda", "scdd", "delt", "fadrm-plus", "cv-dd"}
            assert methods


RATES = {"imagenet-1k": (0.25, 0.03), "imagenette": (0.25, 0.03), "tiny-imagenet": (0.6, 0.06)}


@pytest.mark.parametrize("dataset", RATES)
def test_scdd_has_the_numbers_of_its_table_and_of_its_commands(dataset: str) -> None:
    recover, squeeze = RATES[dataset]
    actual = settings("scdd", dataset, "paper")
    assert (actual["learning_rate"], actual["bn_weight"], actual["steps"]) == (recover, 0.01, 1000)
    assert (actual["backbone_learning_rate"], actual["head_learning_rate"]) == (squeeze, squeeze)
    assert (actual["backbone_epochs"], actual["head_epochs"], actual["crop_per_image"]) == (200, 200, False)
    assert actual["network"] == ("resnet18" if dataset == "tiny-imagenet" else "resnet50")
    assert settings("scdd", dataset, "released")["learning_rate"] == (0.6 if dataset == "tiny-imagenet" else 0.1)
    assert resolved("scdd", dataset, "paper").evaluator_name == "fkd"
    cifar = settings("scdd", "cifar100", "quick")
    views = (cifar["crop_scale_min"], cifar["flip"])
    assert (cifar["learning_rate"], cifar["bn_weight"], *views) == (0.4, 0.005, 1, False)


FIVE = ("resnet18", "resnet50", "shufflenet_v2_x1_0", "mobilenet_v2", "densenet121")
COMMITTEES = {
    ("imagenette", 1): {"mobilenet_v2": 54, "densenet121": 60.8},
    ("imagenette", 10): dict(zip(FIVE, (62.4, 52, 57.2, 54, 60.8), strict=True)),
    ("imagenet-1k", 1): {"resnet18": 56.4, "shufflenet_v2_x1_0": 52.5},
    ("imagenet-1k", 50): dict(zip(FIVE, (56.4, 42.3, 52.5, 44.2, 40.6), strict=True)),
    ("tiny-imagenet", 1): {"resnet18": 46.5, "mobilenet_v2": 44.8},
}


@pytest.mark.parametrize(("cell", "priors"), COMMITTEES.items())
def test_cvdd_has_the_committees_of_its_scripts(cell: tuple[str, int], priors: dict[str, float]) -> None:
    """`Jiacheng8/CV-DD:recover/recover.py`, `recover/scripts`: model settings 4 and 5, `model_prior_weight_dict`."""
    request = Request(("cv-dd",), (cell[0],), (cell[1],), ("paper",))
    (experiment,) = experiments(request, PluginRegistry())
    actual = experiment.method.model_dump()
    assert dict(zip(actual["teachers"], actual["priors"], strict=True)) == priors
    assert experiment.evaluator_name == "cv-dd"
    varied = {
        "learning_rate": 0.25,
        "bn_weight": 0.01,
        "steps": 4000,
        "jitter": 4 if cell[0] == "tiny-imagenet" else 32,
    }
    expected = {**RELEASED, **varied, "crop_per_image": False, "committee": 2, "prior_temperature": 5}
    assert {name: actual[name] for name in expected} == expected


def test_the_recipe_of_sre2l_plus_plus_has_the_teacher_of_the_run_alone() -> None:
    cell = resolved("cv-dd", "imagenette", "paper")
    request = Request(("cv-dd", "random"), ("imagenette",), (10,), ("paper", "sre2l-plus-plus"), evaluators=("cv-dd",))
    alone, random = experiments(request, PluginRegistry())
    changes = {"teachers": (), "priors": (), "committee": 1}
    assert alone.method.model_dump() == {**cell.method.model_dump(), **changes}
    changes.pop("committee")
    assert alone.evaluator.model_dump() == random.evaluator.model_dump() == {**cell.evaluator.model_dump(), **changes}
    assert alone.method.teacher_pool() == alone.evaluator.teacher_pool() == ()
