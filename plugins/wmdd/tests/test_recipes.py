"""The recipes say what the paper's Table 7 and the released code say."""

from __future__ import annotations

from typing import Any

import pytest
from ddbench_wmdd import WMDD, BarycenterMatching

from ddbench.config.experiment import Experiment
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.results import published

DATASETS = ("imagenette", "tiny-imagenet", "imagenet-1k")


def resolved(dataset: str, *recipes: str, method: str = "wmdd") -> Experiment:
    (cell,) = experiments(
        Request(methods=(method,), datasets=(dataset,), ipcs=(10,), recipes=recipes), PluginRegistry()
    )
    return cell


def settings(experiment: Experiment) -> WMDD:
    assert isinstance(experiment.method, WMDD)
    return experiment.method


@pytest.mark.parametrize("dataset", DATASETS)
def test_paper_is_table_7(dataset: str) -> None:
    table = published.load("hyperparameters")
    squeeze, recover = (
        {row.ours or row.metric: row.value for row in table.itertuples() if row.dataset == name}
        for name in ("all", dataset)
    )
    cell = resolved(dataset, "paper")
    teacher, method = cell.teacher, settings(cell)
    assert teacher.optimizer == squeeze["teacher.optimizer"].lower()
    assert teacher.learning_rate == float(squeeze["teacher.learning_rate"])
    assert teacher.weight_decay == float(squeeze["teacher.weight_decay"])
    assert teacher.momentum == float(squeeze["teacher.momentum"])
    assert (teacher.batch_size, teacher.epochs) == (int(squeeze["teacher.batch_size"]), int(squeeze["teacher.epochs"]))
    assert method.bn_weight == float(recover["wmdd.bn_weight"])
    assert method.learning_rate == float(recover["wmdd.learning_rate"])
    assert list(method.betas) == [float(beta) for beta in recover["wmdd.betas"].split(",")]
    assert (method.batch_size, method.steps) == (int(recover["wmdd.batch_size"]), int(recover["wmdd.steps"]))
    assert squeeze["scheduler"] == recover["scheduler"] == "cosine decay"
    assert recover["optimizer"] == "Adam"


STUDENTS_OF_SRE2L: dict[bool, dict[str, Any]] = {
    # VILA-Lab/SRe2L: SRe2L/validate/train_FKD.sh, and the defaults of train_FKD.py
    False: {"epochs": 300, "batch_size": 1024, "learning_rate": 1e-3, "weight_decay": 0.01, "cutmix_alpha": 1},
    # zeyuanyin/tiny-imagenet: script/train_kd.sh
    True: {
        **{"epochs": 100, "batch_size": 256, "learning_rate": 0.2, "weight_decay": 1e-4, "cutmix_alpha": None},
        **{"optimizer": "sgd", "warmup_epochs": 5, "squared_temperature": True},
    },
}


@pytest.mark.parametrize(
    ("dataset", "bn_weight", "rate"),
    [("imagenette", 10, 0.25), ("tiny-imagenet", 300, 0.1), ("imagenet-1k", 500, 0.25)],
)
def test_paper_is_the_papers_method(dataset: str, bn_weight: float, rate: float) -> None:
    cell = resolved(dataset, "paper")
    method = settings(cell)
    assert resolved(dataset) == cell  # and the default
    assert (method.bn_weight, method.learning_rate, method.steps) == (bn_weight, rate, 2000)
    assert (method.solver, method.iterations) == ("paper", 10)
    assert (method.feature_form, method.bn_form, method.cross_entropy_weight) == ("squared", "squared", 0)
    assert not method.crop_per_image  # as for sre2l and cda: a comparison must not differ in it
    assert (cell.teacher.arch, cell.statistics.variance, cell.distill.jpeg_quality) == ("resnet18", "exact", None)
    assert cell.evaluator_name == "fkd"
    protocol = cell.evaluator.model_dump()
    shared = {"temperature": 20, "labels": "online", "min_crop": 0.08, "validate_every": 0}
    assert protocol == {**STUDENTS_OF_SRE2L[dataset == "tiny-imagenet"], **shared}


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("budget", ["paper", "quick"])
def test_released_is_what_the_published_code_computes(dataset: str, budget: str) -> None:
    plain, cell = resolved(dataset, budget), resolved(dataset, budget, "released")
    method = settings(cell)
    assert (method.solver, method.feature_form, method.bn_form) == ("released", "norm", "norm")
    assert method.cross_entropy_weight == 1
    assert not method.crop_per_image
    assert (cell.statistics.variance, cell.statistics.batch_size, cell.distill.jpeg_quality) == ("batch-mean", 100, 75)
    assert cell.teacher.epochs == (50 if budget == "paper" else plain.teacher.epochs)
    kept = ("steps", "learning_rate", "betas", "batch_size")
    assert [getattr(method, name) for name in kept] == [getattr(settings(plain), name) for name in kept]
    students = cell.evaluator.model_dump()
    assert (students["epochs"], students["batch_size"], students["learning_rate"]) == (300, 100, 1e-3)
    assert not {"optimizer", "warmup_epochs", "squared_temperature"} & set(students)  # they have their defaults
    assert students["cutmix_alpha"] == 1
    assert budget == "paper" or cell.evaluator == plain.evaluator
    if (dataset, budget) != ("tiny-imagenet", "paper"):
        assert (cell.data, cell.teacher.stem) == (plain.data, plain.teacher.stem)
        assert (method.bn_weight, method.jitter) == (settings(plain).bn_weight, settings(plain).jitter)


def test_released_runs_tiny_imagenet_at_224_pixels_with_its_own_stem() -> None:
    native, released = resolved("tiny-imagenet", "paper"), resolved("tiny-imagenet", "paper", "released")
    assert (native.data.image_size, native.teacher.stem) == (64, "small")
    assert (released.data.image_size, released.data.stored_size) == (224, 256)
    assert released.teacher.stem == released.student_stem == "tiny-released"
    assert (settings(released).bn_weight, settings(released).jitter) == (500, 32)
    assert settings(released).learning_rate == 0.1


def test_recipes_compose_in_the_order_given() -> None:
    assert settings(resolved("imagenette", "quick", "released", "lloyd")).solver == "lloyd"
    assert settings(resolved("imagenette", "quick", "lloyd", "released")).solver == "released"
    assert settings(resolved("imagenette", "lloyd", "quick")).steps == 500


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("budget", ["paper", "quick"])
def test_tuned_changes_how_pixels_start_and_are_moved_and_nothing_that_others_share(dataset: str, budget: str) -> None:
    plain, cell = resolved(dataset, budget), resolved(dataset, budget, "tuned")
    changed = {name for name, value in cell.method if value != getattr(plain.method, name)}
    chosen = {"solver", "initial", "feature_form", "bn_form", "bn_weight", "learning_rate", "cross_entropy_weight"}
    assert changed == chosen
    assert settings(cell).initial == "real"
    for section in ("data", "teacher", "statistics", "distill", "evaluator", "runtime"):
        assert getattr(cell, section) == getattr(plain, section), section


def test_quick_on_imagenette_is_what_the_published_code_was_measured_with() -> None:
    cell = resolved("imagenette", "quick", "released")
    assert (cell.data.image_size, cell.data.stored_size) == (64, 72)
    assert (cell.teacher.stem, cell.teacher.epochs) == ("imagenet", 20)
    method = settings(cell)
    assert (method.steps, method.jitter, method.learning_rate, method.bn_weight) == (500, 8, 0.25, 10)


def test_views_of_digits_are_digits_in_quick() -> None:
    method = settings(resolved("digits", "quick"))
    assert (method.flip, method.crop_scale_min, method.jitter) == (False, 0.8, 1)
    assert not settings(resolved("svhn", "quick")).flip
    assert settings(resolved("imagenette", "quick")).flip


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "cifar100", "fashion-mnist", "svhn", *DATASETS])
@pytest.mark.parametrize("budget", ["quick", "smoke"])
def test_quick_and_smoke_have_sizes_for_every_dataset(dataset: str, budget: str) -> None:
    cell = resolved(dataset, budget)
    method = settings(cell)
    assert method.jitter <= cell.data.image_size // 7
    assert method.steps <= 500
    assert cell.data.image_size <= 64


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("recipes", [("paper",), ("quick",), ("smoke",), ("quick", "released"), ("paper", "released")])
def test_the_sliced_sibling_takes_what_is_not_the_barycenter_from_the_same_recipes(
    dataset: str, recipes: tuple[str, ...]
) -> None:
    cell, sibling = resolved(dataset, *recipes), resolved(dataset, *recipes, method="wmdd-sliced")
    shared = BarycenterMatching.model_fields
    own, other = cell.method.model_dump(), sibling.method.model_dump()
    assert {name: own.get(name) for name in shared} == {name: other.get(name) for name in shared}
    assert other.keys() - shared == {"projections", "iterations"}
    for section in ("data", "teacher", "statistics", "distill", "evaluator"):
        assert getattr(sibling, section) == getattr(cell, section)
