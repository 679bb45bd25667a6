"""The shipped recipes: every number names its source, reaches a setting, and is the paper's where it says so."""

from typing import Any

import pytest

from ddbench.config import recipes
from ddbench.config.experiment import Experiment
from ddbench.config.schema import DataConfig, DistillConfig, RuntimeConfig, StatisticsConfig, TeacherConfig
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.results import published

REGISTRY = PluginRegistry()
SHIPPED = REGISTRY.recipes()
METHODS = [cls.name for cls in REGISTRY.distillers()]
DATASETS = [spec.name.replace("hf:NAME", "hf:owner/pets") for spec in REGISTRY.datasets()]
PAPER_DATASETS = ("imagenette", "tiny-imagenet", "imagenet-1k")
SUBSETS = [spec.name for spec in REGISTRY.datasets() if spec.native_size == 224 and spec.classes in (10, 100)]
"""ImageNette and the other subsets of ImageNet, which have its settings."""
CORE = {
    "data": DataConfig,
    "teacher": TeacherConfig,
    "statistics": StatisticsConfig,
    "distill": DistillConfig,
    "runtime": RuntimeConfig,
}


def cell(method: str, dataset: str, *names: str, evaluators: tuple[str, ...] = ()) -> Experiment:
    (actual,) = experiments(Request((method,), (dataset,), (10,), names, evaluators=evaluators), REGISTRY)
    return actual


@pytest.mark.parametrize("recipe", SHIPPED, ids=lambda recipe: f"{recipe.path.parts[-3]}-{recipe.name}")
def test_every_block_has_a_source_and_names_what_exists(recipe: recipes.Recipe) -> None:
    assert recipe.about.endswith(".")
    assert recipe.path.stem == recipe.name
    known = {
        "dataset": {*DATASETS},
        "method": {*METHODS, "given"},
        "evaluator": {cls.name for cls in REGISTRY.evaluators()},
        "budget": {other.name for other in SHIPPED if other.kind == "budget"},
        "ipc": {"1", "10", "20", "50", "70", "100", "200", "500", "1000", "1250"},
    }
    for block in recipe.blocks:
        assert len(block.source) > 10
        for kind, names in block.applies.items():
            assert set(names) <= known[kind]
        for section, values in block.settings.items():
            models: list[Any] = [CORE[section]] if section in CORE else []
            if section == "method":
                models = [REGISTRY.distiller(name) for name in block.applies["method"]]
            if section == "evaluator":
                models = [REGISTRY.evaluator(name) for name in block.applies["evaluator"]]
            assert models
            for model in models:
                assert set(values) <= set(model.model_fields)


def test_recipes_of_one_name_are_of_one_kind() -> None:
    for name in {recipe.name for recipe in SHIPPED}:
        assert len({recipe.kind for recipe in SHIPPED if recipe.name == name}) == 1


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("budget", ["quick", "smoke"])
def test_quick_and_smoke_serve_every_method_on_every_dataset(dataset: str, budget: str) -> None:
    for method in METHODS:
        actual = cell(method, dataset, budget)
        assert actual.recipes == (budget,)
        assert actual.data.image_size <= 64
        assert actual.teacher.epochs <= 20


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("evaluator", [cls.name for cls in REGISTRY.evaluators()])
def test_every_protocol_can_be_asked_for(dataset: str, evaluator: str) -> None:
    method = "full" if REGISTRY.evaluator(evaluator).on_real_data else "random"
    assert cell(method, dataset, "smoke", evaluators=(evaluator,)).evaluator_name == evaluator


@pytest.mark.parametrize("dataset", DATASETS)
def test_paper_stands_only_for_the_papers_datasets(dataset: str) -> None:
    if dataset in (*PAPER_DATASETS, *SUBSETS):
        assert cell("wmdd", dataset, "paper").recipes == ("paper",)
    else:
        with pytest.raises(DDBenchError, match="choose one of: quick, smoke"):
            cell("wmdd", dataset, "paper")


@pytest.mark.parametrize("budget", ["paper", "quick", "smoke"])
def test_other_subsets_of_imagenet_have_the_settings_of_imagenette(budget: str) -> None:
    assert len(SUBSETS) == 9
    request = Request(tuple(METHODS), tuple(SUBSETS), (10,), (budget,), evaluators=("fkd", "dsa"))
    cells = experiments(request, REGISTRY)
    expected = [own for own in cells if own.dataset == "imagenette"]
    assert len(cells) == len(SUBSETS) * len(expected)
    for dataset in SUBSETS:
        assert [own.model_copy(update={"dataset": "imagenette"}) for own in cells if own.dataset == dataset] == expected


WMDD_TABLE_7 = {
    "imagenette": {"bn_weight": 10, "learning_rate": 0.25, "betas": (0.5, 0.9), "batch_size": 100, "steps": 2000},
    "tiny-imagenet": {"bn_weight": 300, "learning_rate": 0.1, "betas": (0.5, 0.9), "batch_size": 100, "steps": 2000},
    "imagenet-1k": {"bn_weight": 500, "learning_rate": 0.25, "betas": (0.5, 0.9), "batch_size": 100, "steps": 2000},
}
SQUEEZE_TABLE_7 = {
    "optimizer": "sgd",
    "learning_rate": 0.025,
    "weight_decay": 1e-4,
    "momentum": 0.9,
    "batch_size": 32,
    "epochs": 100,
}


@pytest.mark.parametrize("dataset", PAPER_DATASETS)
def test_paper_is_table_7(dataset: str) -> None:
    actual = cell("wmdd", dataset, "paper")
    method = actual.method.model_dump()
    assert {name: method[name] for name in WMDD_TABLE_7[dataset]} == WMDD_TABLE_7[dataset]
    assert {name: getattr(actual.teacher, name) for name in SQUEEZE_TABLE_7} == SQUEEZE_TABLE_7
    assert actual.teacher.arch == actual.student == "resnet18"
    assert (method["solver"], method["iterations"], method["bn_form"]) == ("paper", 10, "squared")
    assert method["cross_entropy_weight"] == 0
    assert actual.statistics.variance == "exact"


def test_table_7_above_is_the_papers() -> None:
    def read(text: str) -> Any:
        values = [part.lower() if part.isalpha() else float(part) for part in text.split(",")]
        return values[0] if len(values) == 1 else tuple(values)

    table = published.load("hyperparameters")
    outcome = {(row.dataset, row.ours): read(str(row.value)) for row in table.itertuples() if row.ours}
    above = {("all", f"teacher.{name}"): value for name, value in SQUEEZE_TABLE_7.items()}
    for dataset, values in WMDD_TABLE_7.items():
        above |= {(dataset, f"wmdd.{name}"): value for name, value in values.items()}
    assert outcome == above


def test_quick_on_imagenette_is_what_it_says() -> None:
    actual = cell("wmdd", "imagenette", "quick", "released")
    method = actual.method.model_dump()
    assert (actual.data.image_size, actual.data.stored_size) == (64, 72)
    assert (actual.teacher.arch, actual.teacher.stem, actual.teacher.epochs) == ("resnet18", "imagenet", 20)
    assert (method["steps"], method["jitter"], method["learning_rate"], method["bn_weight"]) == (500, 8, 0.25, 10)
    assert (method["solver"], method["feature_form"], method["bn_form"]) == ("released", "norm", "norm")
    assert (method["cross_entropy_weight"], method["crop_per_image"]) == (1, False)
    assert (actual.distill.jpeg_quality, actual.statistics.variance) == (75, "batch-mean")
    evaluator = actual.evaluator.model_dump()
    assert (evaluator["epochs"], evaluator["batch_size"], evaluator["temperature"]) == (300, 100, 20)


def test_released_at_the_papers_budget_is_the_published_codes() -> None:
    assert cell("wmdd", "imagenette", "paper", "released").teacher.epochs == 50
    tiny = cell("wmdd", "tiny-imagenet", "paper", "released")
    assert (tiny.data.image_size, tiny.teacher.stem) == (224, "tiny-released")
    assert tiny.method.model_dump()["bn_weight"] == 500
    assert cell("wmdd", "tiny-imagenet", "quick", "released").data.image_size == 64


def test_lloyd_changes_the_solver_alone() -> None:
    plain, lloyd = cell("wmdd", "imagenette", "quick"), cell("wmdd", "imagenette", "quick", "lloyd")
    settings = plain.method.model_copy(update={"solver": "lloyd"})
    assert lloyd == plain.model_copy(update={"method": settings, "recipes": ("quick", "lloyd")})


def test_all_methods_of_a_budget_are_judged_alike() -> None:
    """One teacher, one protocol: what differs between rows of a table is the method."""
    for dataset in PAPER_DATASETS:
        for budget in ("paper", "quick", "smoke"):
            cells = [cell(method, dataset, budget, evaluators=("fkd",)) for method in METHODS]
            assert len({repr((c.data, c.teacher, c.evaluator, c.student, c.student_stem)) for c in cells}) == 1
