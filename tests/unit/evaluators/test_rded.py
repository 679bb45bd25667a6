"""The protocol of RDED: its settings, its views, its learning rates, and a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from ddbench.augment import crops, mixing, shuffling, views
from ddbench.core import seeds
from ddbench.evaluators.fkd_labels import OnlineLabels
from ddbench.evaluators.protocols import KnowledgeDistillation
from ddbench.evaluators.rded import PatchShuffling
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry

if TYPE_CHECKING:
    from conftest import Shell
    from tests.unit.evaluators.conftest import WatchedTask


def rded(**settings: Any) -> PatchShuffling:
    return PatchShuffling.model_validate({"epochs": 2, "batch_size": 8, **settings})


def test_defaults_are_the_released_settings() -> None:
    """`LINs-lab/RDED:argument.py`, `scripts/`: factor 2, 300 epochs, AdamW 1e-3 and 0.01, CutMix 1, temperature 20."""
    assert PatchShuffling().model_dump() == {**KnowledgeDistillation().model_dump(), "factor": 2, "min_crop": 0.5}
    assert (PatchShuffling.version, PatchShuffling().shuffle_factor) == ("1", 2)


@pytest.mark.parametrize(
    ("settings", "min_crop"),
    [({"factor": 1}, 1.0), ({"factor": 4}, 0.25), ({}, 0.5), ({"factor": 4, "min_crop": 0.1}, 0.1)],
)
def test_crops_keep_the_area_of_one_over_the_factor(settings: dict[str, Any], min_crop: float) -> None:
    protocol = rded(**settings)
    assert protocol.min_crop == min_crop
    assert PatchShuffling(**protocol.model_dump(mode="json")) == protocol  # as records are read


@pytest.mark.parametrize("wrong", [{"factor": 0}, {"factor": "two"}, {"min_crop": 0}, {"patches": 2}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        rded(**wrong)


def test_views_are_those_of_fkd_with_shuffled_patches(make_task: Callable[..., WatchedTask]) -> None:
    """Each view, image by image: patches, then crop, flip, normalisation and CutMix."""
    task = make_task()
    source = OnlineLabels(task, rded(), 20.0)
    plain = OnlineLabels(task, KnowledgeDistillation(batch_size=8, min_crop=0.5), 20.0).views(1)
    epoch = source.views(1)
    for name in ("order", "boxes", "flips"):
        assert torch.equal(getattr(epoch, name), getattr(plain, name))
    assert plain.places is None
    assert epoch.places is not None
    assert len(epoch.places.flatten(1).unique(dim=0)) == 4  # all arrangements of 2 x 2 occur
    for number, batch in enumerate(source.batches(epoch)):
        alone = []
        for place in range(batch.positions.start, batch.positions.stop):
            image = task.images[epoch.order[place]].float() / 255
            rows, columns = epoch.places[place].tolist()
            image = image if rows == [0, 1] else torch.cat([image[:, 4:], image[:, :4]], 1)
            image = image if columns == [0, 1] else torch.cat([image[:, :, 4:], image[:, :, :4]], 2)
            crop = crops.crop_resize(image[None], epoch.boxes[place], 8)
            alone.append(crop.flip(-1) if epoch.flips[place] else crop)
        mix = epoch.mixes[number]
        expected = task.dataset.normalise(mixing.cutmix(torch.cat(alone), mix.partner, mix.box))
        torch.testing.assert_close(batch.images, expected, atol=1e-5, rtol=0)


def test_a_student_is_that_of_a_plain_loop(make_task: Callable[..., WatchedTask]) -> None:
    """Three epochs of SGD at 1, 0.933 and 0.75 of the rate, against the loss and the schedule written out."""
    task = make_task()
    rded(epochs=3, optimizer="sgd", learning_rate=0.5, weight_decay=0.1).evaluate(task)
    (student,) = task.students

    task = make_task()
    plain, teacher = task.student().train(), task.teacher
    optimizer = torch.optim.SGD(plain.parameters(), lr=1, momentum=0.9, weight_decay=0.1)
    weights = task.weights * 20 / task.weights.sum()
    seed, size = seeds.derive("student", task.seed), torch.tensor([8, 8])
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = 0.5 * 0.5 * (1 + math.cos(math.pi * epoch / 3 / 2))
        drawn = views.epoch_views(20, size, seed, epoch, 8, (0.5, 1.0), 1.0, 8, factor=2)
        assert drawn.places is not None
        images = shuffling.shuffle_patches(task.images[drawn.order].float() / 255, drawn.places)
        images = task.dataset.normalise(crops.crop_resize(images, drawn.boxes, 8, drawn.flips))
        for part, mix in zip(drawn.batches, drawn.mixes, strict=True):
            batch = mixing.cutmix(images[part], mix.partner, mix.box)
            with torch.no_grad():
                targets = torch.softmax(teacher(batch).logits.half().float() / 20, 1)
            divergence = functional.kl_div(torch.log_softmax(plain(batch) / 20, 1), targets, reduction="none").sum(1)
            optimizer.zero_grad()
            (divergence * weights[drawn.order[part]]).mean().backward()
            optimizer.step()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], tensor, rtol=2e-3, atol=2e-4)


def test_stored_labels_are_the_online_ones_and_count_the_patches(make_task: Callable[..., WatchedTask]) -> None:
    """A view: ten fp16 logits, order and partner int32, four and 2 x factor int16, a flip; a batch: four int16."""
    online, stored = (rded(labels=labels).evaluate(make_task()) for labels in ("online", "stored"))
    assert online == stored
    assert online.regime == "fkd"
    assert online.label_bytes == 2 * (20 * (20 + 4 + 4 + 8 + 8 + 1) + 3 * 8)


BATCHES = [
    ("imagenette", 1, 10), ("imagenette", 10, 50), ("imagenette", 50, 100),
    ("imagenet-1k", 1, 20), ("imagenet-1k", 10, 100), ("imagenet-1k", 50, 200), ("imagenet-100", 10, 100),
    ("tiny-imagenet", 1, 100), ("tiny-imagenet", 10, 100), ("tiny-imagenet", 50, 100),
]  # fmt: skip


@pytest.mark.parametrize("recipe", ["paper", "quick"])
@pytest.mark.parametrize(("dataset", "ipc", "batch"), BATCHES)
def test_recipes_have_the_released_batches(recipe: str, dataset: str, ipc: int, batch: int) -> None:
    """`LINs-lab/RDED:argument.py`, and the factors of `scripts/`."""
    (cell,) = experiments(Request(("rded",), (dataset,), (ipc,), (recipe,)), PluginRegistry())
    settings = cell.evaluator.model_dump()
    factor = 1 if dataset == "tiny-imagenet" else 2
    expected = {
        "factor": factor, "min_crop": 1 / factor, "epochs": 300, "batch_size": batch, "learning_rate": 1e-3,
        "weight_decay": 0.01, "temperature": 20, "cutmix_alpha": 1.0,
    }  # fmt: skip
    assert cell.evaluator_name == "rded"
    assert {name: settings[name] for name in expected} == expected
    assert settings["factor"] == cell.method.model_dump()["factor"]


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "cifar100", "fashion-mnist", "svhn"])
def test_small_images_have_one_patch_in_quick(dataset: str) -> None:
    (cell,) = experiments(Request(("rded",), (dataset,), (10,), ("quick",)), PluginRegistry())
    assert cell.method.model_dump()["factor"] == cell.evaluator.model_dump()["factor"] == 1


@pytest.mark.slow
def test_the_command_line_evaluates_rded_and_random_by_it(shell: Shell) -> None:
    digits, factor = ("--dataset", "digits", "--ipc", "1"), ("--set", "evaluator.factor=2")
    (own,) = shell.run("--method", "rded", *digits, *factor, "--set", "method.candidates=40").rows
    (random,) = shell.run("--method", "random", "--evaluator", "rded", *digits, *factor).rows
    assert (own["protocol"], random["protocol"]) == ("rded v1", "rded v1")
    wrong = ("--set", "evaluator.factor=17")
    refused = shell.quick_run("--method", "random", "--evaluator", "rded", *digits, *wrong)
    assert refused.code == 2
    assert refused.err.endswith("\nddbench: 17 patches along a side are more than its 8 pixels: lower the factor\n")
