"""Shipped recipes at a small size: the images of every method beat random noise."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from ddbench.api.hookspecs import hookimpl
from ddbench.config.experiment import Experiment
from ddbench.evaluators.protocols import KnowledgeDistillation
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache
from ddbench.testing.data import Noise

TEACHER = ("teacher.epochs=5", "teacher.learning_rate=0.05")
STUDENT = KnowledgeDistillation(epochs=40, learning_rate=5e-3, min_crop=0.5, cutmix_alpha=None)
LIMITS = {"steps": 60, "real_batch": 16, "candidates": 50}
"""The scaling of a recipe: no setting of these names is larger. All others are the recipe's."""
METHOD_LIMITS = {
    "dm": {"steps": 20},
    "dm-rbf": {"steps": 20},
    "dc": {"iterations": 2},
    "dsa": {"iterations": 2},
    "wmdd-sliced": {"iterations": 3},
}
MARGIN = 15
"""Points above the best noise. Noise has 10 % in this setting, with a standard deviation of about one point."""
NUMERICS = {"wmdd": ("released", "lloyd", "tuned"), "wmdd-sliced": ("released",)}
METHODS = [cls.name for cls in PluginRegistry().distillers() if cls.needs_ipc]
CELLS = [(name, ("quick", *more)) for name in METHODS for more in ((), *((one,) for one in NUMERICS.get(name, ())))]


def scaled(experiment: Experiment) -> Experiment:
    method = experiment.method
    limits = {**LIMITS, **METHOD_LIMITS.get(method.name, {})}
    smaller = {name: min(limit, getattr(method, name)) for name, limit in limits.items() if hasattr(method, name)}
    return experiment.model_copy(update={"evaluator": STUDENT, "method": method.model_copy(update=smaller)})


class Runner:
    """Runs cells on digits in one cache, so that all share the teacher."""

    def __init__(self, folder: Path) -> None:
        self.registry = PluginRegistry()
        self.registry.register(SimpleNamespace(ddbench_distillers=hookimpl(lambda: [Noise])), "ddbench-noise")
        self.workspace = Workspace(self.registry, Cache(folder), None)
        self.noise = cache(lambda: max(self.top1("noise", ("quick",), seed) for seed in range(3)))

    def top1(self, method: str, recipes: tuple[str, ...], seed: int = 0) -> float:
        options = {"evaluators": ("fkd",), "students": ("convnet-bn-d2",), "device": "cpu", "precision": "fp32"}
        request = Request((method,), ("digits",), (1,), recipes, seed=seed, assignments=TEACHER, **options)  # type: ignore[arg-type]
        (experiment,) = experiments(request, self.registry)
        pipeline = Pipeline(self.workspace, scaled(experiment))
        return float(pipeline.artifact("evaluate").meta["metrics"]["top1_last"])


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(tmp_path_factory.mktemp("cache"))


def test_every_numerics_recipe_is_tested() -> None:
    known = {recipe.name for recipe in PluginRegistry().recipes() if recipe.kind == "numerics"}
    assert known == {name for names in NUMERICS.values() for name in names}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "recipes"), CELLS, ids=lambda value: value if isinstance(value, str) else "+".join(value)
)
def test_a_recipe_beats_noise(method: str, recipes: tuple[str, ...], runner: Runner) -> None:
    """At one image per class of digits, with few steps.

    This proves that no recipe destroys the images or inverts the teacher in vain within the first steps. It does not
    prove that a recipe is right at its full length or at other sizes, see the next test. `smoke` promises nothing, and
    `paper` has no sizes for digits.
    """
    assert runner.top1(method, recipes) > runner.noise() + MARGIN


@pytest.mark.slow
def test_dm_beats_noise_at_64_pixels(tmp_path: Path) -> None:
    """With the settings of IPC 10, 20 steps of DM at IPC 1 destroy the images: top-1 is that of noise, 10 %.

    A part of ImageNette and the student's default network, because a step of DM grows with the size of the images.
    """
    root = Path(os.environ.get("DDBENCH_DATA") or "/nowhere")
    teacher, images = root / "teacher-resnet18-imagenette64.safetensors", tmp_path / "few"
    if not teacher.is_file() or not (root / "imagenette2").is_dir():
        pytest.skip("needs DDBENCH_DATA with imagenette2/ and teacher-resnet18-imagenette64.safetensors")
    for split, count in (("train", 40), ("val", 50)):
        for folder in sorted((root / "imagenette2" / split).iterdir()):
            (images / split / folder.name).mkdir(parents=True)
            for path in sorted(folder.iterdir())[:count]:
                (images / split / folder.name / path.name).symlink_to(path)
    runner = Runner(tmp_path / "cache")

    def top1(method: str, *assignments: str) -> float:
        given = (f"teacher.checkpoint={teacher}", "teacher.stem=imagenet", "evaluator.epochs=60", *assignments)
        options = {"evaluators": ("fkd",), "device": "cpu", "precision": "fp32"}
        request = Request((method,), (f"imagefolder:{images}",), (1,), ("quick",), assignments=given, **options)  # type: ignore[arg-type]
        (experiment,) = experiments(request, runner.registry)
        pipeline = Pipeline(runner.workspace, experiment)
        return float(pipeline.artifact("evaluate").meta["metrics"]["top1_last"])

    few_steps = ("method.steps=20", "method.real_batch=8")
    assert top1("dm", *few_steps) > 14
    assert top1("dm", *few_steps, "method.network=convnet-d3", "method.learning_rate=1") < 12
