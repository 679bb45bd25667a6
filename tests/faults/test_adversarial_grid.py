"""A grid of methods that change shared state beside sound ones: the sound numbers stay, and each fault is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conftest import Place, Shell, Small

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


def grid(*methods: str) -> list[str]:
    return [part for name in methods for part in ("--method", name)]


def of_sound_methods(place: Place) -> dict[str, Any]:
    return {name: record for name, record in place.records().items() if record["method"] in SOUND}


def test_a_grid_of_adversaries_leaves_every_sound_number(
    tmp_path: Path,
    small: Small,
    place_at: Callable[[Path], Place],
    install_plugin: Callable[[Path, str, str], None],
) -> None:
    """Each run is a process: the plugin changes the state of its own."""
    alone, together = place_at(tmp_path / "alone"), place_at(tmp_path / "together")
    site = tmp_path / "site"
    install_plugin(site, "ddtest-adversaries", PLUGIN)

    def run(place: Place, *options: str, code: int = 0, **environment: str) -> str:
        """The messages of a run that ends with this code."""
        process = small.command(place, "run", *CELL, *place.options, *options, environment=environment)
        assert process.end() == code, process.lines()
        return "\n".join(process.lines())

    run(alone, *grid(*SOUND))
    sound = of_sound_methods(alone)
    assert len(sound) == len(SOUND)

    names = (*CHANGES, "staged", "features", "nested", "generators")
    messages = run(together, *grid("random", *names, *SOUND), code=1, PYTHONPATH=str(site))
    for name, change in CHANGES.items():
        assert f"method '{name}' of ddtest-adversaries changed {change} in place" in messages, messages
    assert "stage 'flip' of ddtest-adversaries changed the teacher (its parameters and buffers)" in messages
    assert of_sound_methods(together) == sound
    statistics = [
        {name: digest for name, digest in place.digests().items() if name.startswith("statistics/")}
        for place in (alone, together)
    ]
    assert statistics[0] == statistics[1]
    assert {record["method"] for record in together.records().values()}.isdisjoint({*CHANGES, "staged"})

    darkened = run(together, *grid(*SOUND), "--evaluator", "darkening", code=2, PYTHONPATH=str(site))
    assert "evaluator 'darkening' of ddtest-adversaries changed" in darkened, darkened
    # A new process on this cache, without the plugin, finds and repeats the same numbers.
    run(together, *grid(*SOUND), "--force", "evaluate")
    assert of_sound_methods(together) == sound


def test_every_mixture_in_one_results_folder_is_named(
    tmp_path: Path,
    small: Small,
    place_at: Callable[..., Place],
    small_images: Path,
    shell_in: Callable[[Path], Shell],
) -> None:
    """One cell of two caches, threads and teachers; two image folders of one name; the means keep them apart."""
    place = place_at(tmp_path / "one")
    elsewhere = place_at(tmp_path / "one", tmp_path / "other cache")
    shell = shell_in(place.root)

    def run(cache: Place, *options: str, epochs: int = 1, threads: int = 1) -> None:
        cell = [word.replace("teacher.epochs=1", f"teacher.epochs={epochs}") for word in CELL]
        process = small.command(cache, "run", *cell, *cache.options, *grid("random"), *options, threads=threads)
        assert process.end() == 0, process.lines()

    run(place, "--seeds", "2")
    for epochs in (1, 2):
        run(elsewhere, epochs=epochs, threads=2)
    folders = [tmp_path / name / "pets" for name in ("first", "second")]
    for folder in folders:
        shutil.copytree(small_images, folder)
    for image in (folders[1] / "train" / "cat").iterdir():
        shutil.copy(folders[1] / "train" / "dog" / image.name, image)
    for folder in folders:
        run(elsewhere, "--dataset", f"imagefolder:{folder}")
    assert len(place.records()) == 6

    table = shell("table", "comparison", "--methods", "random", *CELL, "--seeds", "2")
    # A block for each teacher: its weights differ between the caches, because the threads do.
    counts = [line.partition("(")[2] for line in table.out.splitlines() if line.startswith("random ")]
    assert sorted(counts) == ["1 set)", "2 on 1 set)"], table.out
    assert "its records differ" not in table.out
    scores = shell("records", "--scores", "--format", "json")
    rows = json.loads(scores.out)
    # One row for each teacher of digits (two students on one set share the first), one for each folder.
    assert sorted(row["n"] for row in rows if row["dataset"] == "digits") == [1, 1, 2]
    pets = [row for row in rows if row["dataset"].startswith("imagefolder:pets@")]
    assert [row["n"] for row in pets] == [1, 1]
    assert len({(row["dataset"], row["settings"]) for row in rows}) == len(rows) == 5, scores.out
    own = shell(
        *("table", "comparison", "--methods", "random", *CELL[2:], "--dataset", f"imagefolder:{folders[0]}"),
        *("--format", "json"),
    )
    measured = [(row["dataset"], row["top1"], row["mixture"]) for row in json.loads(own.out)]
    assert sorted(measured) == sorted((row["dataset"], row["top1"], "") for row in pets), own.out
