"""A grid of methods that change shared state beside sound ones: the sound numbers stay, and each fault is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conftest import Place

# On import it changes how float32 is multiplied; each method and the protocol change one more thing.
PLUGIN = """
    import torch
    from ddbench.api import Distiller, Stage, hookimpl
    from ddbench.evaluators.protocols import KnowledgeDistillation

    torch.set_float32_matmul_precision("medium")
    torch.backends.mkldnn.enabled = False
    torch.set_num_threads(torch.get_num_threads() + 1)


    def weights(task):
        task.teacher.network.classifier.weight.data.mul_(-1)

    def answers(task):
        task.dataset.val.labels.fill_(0)

    def mean(task):
        task.dataset.mean.add_(0.3)

    def features(task):
        task.statistics(0).features.sub_(100)

    def nested(task):
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
            task.statistics(1)

    def early(task):
        task.teacher.network.features[0].weight.data.mul_(-1)
        task.statistics(0, layer=1)

    def layer(task):
        task.teacher.network.features[1].eps = 10.0

    def answer(task):
        task.dataset.val.labels = torch.zeros_like(task.dataset.val.labels)

    def generators(task):
        torch.manual_seed(0)
        torch.set_float32_matmul_precision("medium")


    def method(change):
        class Adversary(Distiller, frozen=True, extra="forbid"):
            name = change.__name__
            version = "1"

            def distill(self, task, unit):
                change(task)
                return torch.full((len(unit.slots), 3, task.info.image_size, task.info.image_size), 0.5)

        return Adversary


    class Flip(Stage):
        name = "flip"
        version = "1"

        def count(self, run):
            return 1

        def depends_on(self, run):
            return {}

        def build(self, run, part, checkpoint):
            run.teacher.network.classifier.weight.data.mul_(-1)
            return {"x": torch.ones(1)}, {}


    class Staged(method(generators)):
        name = "staged"

        def stages(self):
            return ("flip",)


    class Darkening(KnowledgeDistillation, frozen=True, extra="forbid"):
        name = "darkening"

        def evaluate(self, task):
            metrics = super().evaluate(task)
            task.images.fill_(0)
            task.weights.fill_(2)
            return metrics


    @hookimpl
    def ddbench_distillers():
        changes = (weights, answers, mean, early, layer, answer, features, nested, generators)
        return [*map(method, changes), Staged]


    @hookimpl
    def ddbench_stages():
        return [Flip]


    @hookimpl
    def ddbench_evaluators():
        return [Darkening]
"""
CHANGES = {
    "weights": "the teacher (its parameters and buffers)",
    "answers": "the labels of the validation images",
    "mean": "the mean of the dataset",
    "early": "the teacher (its parameters and buffers)",
    "layer": "the teacher (its modules)",
    "answer": "labels of the validation images",
}
SOUND = ("random", "kmeans")
CELL = (
    *("--dataset", "digits", "--ipc", "1", "--recipe", "smoke", "--arch", "convnet-bn-d1", "--image-size", "8"),
    *("--device", "cpu", "--precision", "fp32", "--set", "teacher.epochs=1", "--set", "teacher.batch_size=256"),
    *("--set", "evaluator.epochs=2"),
)


def ddbench(place: Place, *words: str, site: Path | None = None, threads: int = 1) -> subprocess.CompletedProcess[str]:
    paths = [str(site)] if site else []
    paths += [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "ddbench", *words, "--results-dir", str(place.results)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=place.root, check=False)


def run(place: Place, *options: str, **how: Any) -> subprocess.CompletedProcess[str]:
    return ddbench(place, "run", *CELL, "--cache-dir", str(place.cache), *options, **how)


def grid(*methods: str) -> list[str]:
    return [part for name in methods for part in ("--method", name)]


def of_sound_methods(place: Place) -> dict[str, Any]:
    return {name: record for name, record in place.records().items() if record["method"] in SOUND}


def test_a_grid_of_adversaries_leaves_every_sound_number(
    tmp_path: Path, place_at: Callable[[Path], Place], install_plugin: Callable[[Path, str, str], None]
) -> None:
    alone, together = place_at(tmp_path / "alone"), place_at(tmp_path / "together")
    outcome = run(alone, *grid(*SOUND))
    assert outcome.returncode == 0, outcome.stderr
    sound = of_sound_methods(alone)
    assert len(sound) == len(SOUND)

    site = tmp_path / "site"
    install_plugin(site, "ddtest-adversaries", PLUGIN)
    names = (*CHANGES, "staged", "features", "nested", "generators")
    outcome = run(together, *grid("random", *names, *SOUND), site=site)
    assert outcome.returncode == 1, outcome.stderr
    for name, change in CHANGES.items():
        assert f"method '{name}' of ddtest-adversaries changed {change} in place" in outcome.stderr, outcome.stderr
    assert "stage 'flip' of ddtest-adversaries changed the teacher (its parameters and buffers)" in outcome.stderr
    assert of_sound_methods(together) == sound
    statistics = [
        {name: digest for name, digest in place.digests().items() if name.startswith("statistics/")}
        for place in (alone, together)
    ]
    assert statistics[0] == statistics[1]
    assert {record["method"] for record in together.records().values()}.isdisjoint({*CHANGES, "staged"})

    darkened = run(together, *grid(*SOUND), "--evaluator", "darkening", site=site)
    assert "evaluator 'darkening' of ddtest-adversaries changed" in darkened.stderr, darkened.stderr
    # A new process on this cache, without the plugin, finds and repeats the same numbers.
    again = run(together, *grid(*SOUND), "--force", "evaluate")
    assert again.returncode == 0, again.stderr
    assert of_sound_methods(together) == sound


def test_every_mixture_in_one_results_folder_is_named(
    tmp_path: Path, place_at: Callable[..., Place], small_images: Path
) -> None:
    """One cell of two caches, threads and teachers; two image folders of one name; the means keep them apart."""
    place = place_at(tmp_path / "one")
    elsewhere = place_at(tmp_path / "one", tmp_path / "other cache")
    for cache, options in ((place, ("--seeds", "2")), (elsewhere, ()), (elsewhere, ("--set", "teacher.epochs=2"))):
        outcome = run(cache, *grid("random"), *options, threads=1 if cache is place else 2)
        assert outcome.returncode == 0, outcome.stderr
    folders = [tmp_path / name / "pets" for name in ("first", "second")]
    for folder in folders:
        shutil.copytree(small_images, folder)
    for image in (folders[1] / "train" / "cat").iterdir():
        shutil.copy(folders[1] / "train" / "dog" / image.name, image)
    for folder in folders:
        outcome = run(elsewhere, *grid("random"), "--dataset", f"imagefolder:{folder}")
        assert outcome.returncode == 0, outcome.stderr
    assert len(place.records()) == 6

    table = ddbench(place, "table", "comparison", "--methods", "random", *CELL, "--seeds", "2")
    # A block for each teacher: its weights differ between the caches, because the threads do.
    counts = [line.partition("(")[2] for line in table.stdout.splitlines() if line.startswith("random ")]
    assert sorted(counts) == ["1 set)", "2 on 1 set)"], table.stdout
    assert "its records differ" not in table.stdout
    scores = ddbench(place, "records", "--scores", "--format", "json")
    rows = json.loads(scores.stdout)
    # One row for each teacher of digits (two students on one set share the first), one for each folder.
    assert sorted(row["n"] for row in rows if row["dataset"] == "digits") == [1, 1, 2]
    pets = [row for row in rows if row["dataset"].startswith("imagefolder:pets@")]
    assert [row["n"] for row in pets] == [1, 1]
    assert len({(row["dataset"], row["settings"]) for row in rows}) == len(rows) == 5, scores.stdout
    own = ddbench(
        *(place, "table", "comparison", "--methods", "random", *CELL[2:], "--dataset", f"imagefolder:{folders[0]}"),
        *("--format", "json"),
    )
    measured = [(row["dataset"], row["top1"], row["mixture"]) for row in json.loads(own.stdout)]
    assert sorted(measured) == sorted((row["dataset"], row["top1"], "") for row in pets), own.stdout
