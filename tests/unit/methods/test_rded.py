"""RDED: which patches of a class are taken; runs on digits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ddbench.api.context import DistillTask
from ddbench.api.dataset import DatasetInfo
from ddbench.api.units import Unit
from ddbench.methods.rded import RDED
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.training.patches import random_crops, teacher_loss

SIZE = 9


def made(method: RDED, task: DistillTask, unit: Unit) -> Tensor:
    images = method.distill(task, unit).images
    assert images is not None
    return images


def test_the_best_of_a_class_are_taken_best_first(
    make_task: Callable[..., DistillTask], brute_force: Callable[..., Tensor]
) -> None:
    task = make_task(ipc=2)
    method = RDED(candidates=30, crops=3, factor=3)
    images = made(method, task, method.units(10, 2)[4])
    kept = [image[:, top : top + 3, left : left + 3] for top in (0, 3, 6) for left in (0, 3, 6) for image in images]

    rows, loss = task.dataset.train.of_class(4), teacher_loss(task, 4)
    candidates = rows[torch.randperm(len(rows), generator=task.generator("rded", "images", 4))[:30]]
    boxes = random_crops(task, candidates, 3, task.generator("rded", "crops", 4))
    best = [brute_force(task, int(index), box, 3, loss) for index, box in zip(candidates, boxes, strict=True)]
    best.sort(key=lambda patch: float(loss(patch[None])))
    torch.testing.assert_close(torch.stack(kept), torch.stack(best[:18]), atol=1e-5, rtol=0)


def test_units_can_be_made_in_any_order(make_task: Callable[..., DistillTask]) -> None:
    method = RDED(candidates=20, crops=2)
    units = method.units(10, 3)
    assert [{slot.label for slot in unit.slots} for unit in units] == [{label} for label in range(10)]
    forward = [made(method, make_task(), unit) for unit in units]
    backward = [made(method, make_task(), unit) for unit in reversed(units)]
    for first, second in zip(forward, reversed(backward), strict=True):
        assert torch.equal(first, second)
        assert 0 <= float(first.min()) < float(first.max()) <= 1
    assert not torch.equal(forward[0], made(method, make_task(seed=1), units[0]))


def test_more_candidates_and_more_crops_never_look_less_real(make_task: Callable[..., DistillTask]) -> None:
    task = make_task(ipc=3)
    unit = RDED().units(10, 3)[8]

    def loss(**changed: int) -> float:
        method = RDED(candidates=12, crops=1, factor=1).model_copy(update=changed)
        return float(teacher_loss(task, 8)(made(method, task, unit)).mean())

    assert loss(candidates=100) < loss()
    assert loss(crops=40) < loss()


def test_what_cannot_be_made_is_refused_in_one_line() -> None:
    info = DatasetInfo("two", ("cat", "dog"), ("cat", "dog"), (500, 80), (1, 1), 16, "")
    assert RDED().skip(info, None) is None
    assert RDED().skip(info, 20) is None  # the whole of the smaller class
    assert RDED(candidates=79).skip(info, 20) == (
        "--ipc 20 needs 80 crops for each class, each from a different image, and rded.candidates is 79: "
        "--set rded.candidates=80 or more"
    )
    assert RDED().skip(info, 21) == (
        "--ipc 21 needs 84 crops for each class, each from a different image, and class 'dog' has 80 training images: "
        "lower --ipc or rded.factor"
    )
    assert RDED(factor=1).skip(info, 80) is None
    assert RDED(factor=17).skip(info, 1) == "rded.factor 17 is more than the 16 pixels of an image's side"


RELEASED_SCRIPTS = {
    # LINs-lab/RDED, scripts/*_cr5.sh: --factor, --num-crop, --mipc; argument.py: args.input_size
    "cifar10": {"factor": 1, "crops": 5, "candidates": 300, "image_size": 32},
    "cifar100": {"factor": 1, "crops": 5, "candidates": 300, "image_size": 32},
    "tiny-imagenet": {"factor": 1, "crops": 5, "candidates": 300, "image_size": 64},
    "imagenette": {"factor": 2, "crops": 5, "candidates": 300, "image_size": 224},
    "imagenet-1k": {"factor": 2, "crops": 5, "candidates": 300, "image_size": 224},
}
RELEASED_STUDENTS = {
    # scripts/*_cr5.sh: --re-epochs; argument.py for ResNet-18 and CutMix: AdamW, rate, decay, alpha, temperature, batch
    # at IPC 10; validation/main.py: the smallest crop is 1 / factor
    **{"epochs": 300, "optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01, "cutmix_alpha": 1},
    **{"temperature": 20, "squared_temperature": False, "warmup_epochs": 0, "batch_size": 50, "min_crop": 0.5},
}


@pytest.mark.parametrize("dataset", RELEASED_SCRIPTS)
def test_recipes_are_the_released_scripts(dataset: str) -> None:
    """`quick` has the same crops on smaller images; `paper` has the sizes too, if it serves the dataset."""
    registry = PluginRegistry()
    for budget in ("quick", *(("paper",) if RELEASED_SCRIPTS[dataset]["image_size"] > 32 else ())):
        (cell,) = experiments(Request(("rded",), (dataset,), (10,), (budget,)), registry)
        expected = dict(RELEASED_SCRIPTS[dataset])
        image_size = expected.pop("image_size")
        assert cell.method.model_dump() == expected
        assert cell.data.image_size == (image_size if budget == "paper" else min(image_size, 64))


@pytest.mark.parametrize("dataset", ["imagenette", "imagenet-1k"])
def test_students_under_fkd_differ_from_the_released_scripts_in_batch_and_crops_alone(dataset: str) -> None:
    """The departures that docs/faithfulness.md names, as far as they are settings."""
    request = Request(("rded",), (dataset,), (10,), ("paper",), evaluators=("fkd",))
    (cell,) = experiments(request, PluginRegistry())
    own = {name: getattr(cell.evaluator, name) for name in RELEASED_STUDENTS}
    differences = {name: value for name, value in own.items() if value != RELEASED_STUDENTS[name]}
    assert differences == {"batch_size": 1024, "min_crop": 0.08}


def test_the_command_line_makes_and_judges_it(shell: Any) -> None:
    settings = ("--set", "rded.candidates=40", "--set", "rded.crops=2")
    outcome = shell.run("--method", "rded", "--dataset", "digits", "--ipc", "1", "--ipc", "2", *settings)
    records = [json.loads(path.read_text()) for path in (shell.results / "records").glob("*.json")]
    assert sorted(record["distilled_images"] for record in records) == [10, 20]
    assert "rded" in outcome.out
    before = shell.files("cache/distill")
    assert len(before) == 20  # ten classes, two IPCs
    shell.run("--method", "rded", "--dataset", "digits", "--ipc", "1", "--ipc", "2", *settings)
    assert shell.files("cache/distill") == before


def test_too_large_an_ipc_is_one_line_before_anything_is_trained(shell: Any) -> None:
    outcome = shell("run", "--method", "rded", "--dataset", "digits", "--ipc", "50", "--recipe", "smoke")
    assert outcome.code != 0
    assert len(outcome.errors) == 1
    assert "--ipc 50 needs 200 crops for each class" in outcome.err
    assert not Path(shell.cache / "teacher").exists()
