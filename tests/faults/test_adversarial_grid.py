"""A grid of methods that change shared state beside sound ones: the sound numbers stay, and each fault is named."""

from __future__ import annotations

import os
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
    from ddbench.api import Distiller, hookimpl
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


    class Darkening(KnowledgeDistillation, frozen=True, extra="forbid"):
        name = "darkening"

        def evaluate(self, task):
            metrics = super().evaluate(task)
            task.images.fill_(0)
            task.weights.fill_(2)
            return metrics


    @hookimpl
    def ddbench_distillers():
        return [method(change) for change in (weights, answers, mean, features, nested, generators)]


    @hookimpl
    def ddbench_evaluators():
        return [Darkening]
"""
CHANGES = {
    "weights": "the teacher (its parameters and buffers)",
    "answers": "the labels of the validation images",
    "mean": "the mean of the dataset",
}
SOUND = ("random", "kmeans")
COMMAND = (
    *("run", "--dataset", "digits", "--ipc", "1", "--recipe", "smoke", "--evaluator", "fkd", "--student", "convnet-d1"),
    *("--arch", "convnet-bn-d1", "--image-size", "8", "--device", "cpu", "--precision", "fp32"),
    *("--set", "teacher.epochs=1", "--set", "teacher.batch_size=256", "--set", "evaluator.epochs=2"),
)


def run(place: Place, *options: str, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    paths = [str(site)] if site else []
    paths += [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ddbench", *COMMAND, *place.options, *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=place.root, check=False)


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
    names = (*CHANGES, "features", "nested", "generators")
    outcome = run(together, *grid("random", *names, *SOUND), site=site)
    assert outcome.returncode == 1, outcome.stderr
    for name, change in CHANGES.items():
        assert f"method '{name}' of ddtest-adversaries changed {change} in place" in outcome.stderr, outcome.stderr
    assert of_sound_methods(together) == sound
    assert {record["method"] for record in together.records().values()}.isdisjoint(CHANGES)

    darkened = run(together, *grid(*SOUND), "--evaluator", "darkening", site=site)
    assert "evaluator 'darkening' of ddtest-adversaries changed" in darkened.stderr, darkened.stderr
    # A new process on this cache, without the plugin, finds and repeats the same numbers.
    again = run(together, *grid(*SOUND), "--force", "evaluate")
    assert again.returncode == 0, again.stderr
    assert of_sound_methods(together) == sound
