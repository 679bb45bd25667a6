"""The protocol of Minimax Diffusion: its settings, its epochs by IPC, and a student against a plain loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional

from ddbench.augment import colours, crops, mixing, views
from ddbench.core import seeds
from ddbench.evaluators.minimax import MinimaxHardLabels
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry

if TYPE_CHECKING:
    from tests.unit.evaluators.conftest import WatchedTask


def test_defaults_are_the_released_arguments() -> None:
    """`vimar-gu/MinimaxDiffusion:argument.py`, `data.py` and `run.sh`."""
    settings = MinimaxHardLabels().model_dump()
    expected = {
        "epochs": 2000, "batch_size": 64, "optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 5e-4,
        "min_crop": 0.5, "cutmix_alpha": 1.0, "jitter": 0.4, "lighting": 0.1,
    }  # fmt: skip
    assert {name: settings[name] for name in expected} == expected
    training = MinimaxHardLabels().training(64)
    assert (training.momentum, training.decay_vectors) == (0.9, True)
    assert MinimaxHardLabels.default_student(224) == "resnetap-10"


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_records_give_the_settings_back(optimizer: str) -> None:
    settings = MinimaxHardLabels.model_validate({"optimizer": optimizer})
    assert MinimaxHardLabels.model_validate(settings.model_dump(mode="json")).optimizer == optimizer


def test_a_student_is_that_of_a_plain_loop(make_task: Callable[..., WatchedTask]) -> None:
    """Six epochs at 1, 1, 1, 1, 0.2 and 0.04 of the rate: crop, flip, colours, CutMix, and both classes by area."""
    task = make_task()
    MinimaxHardLabels(epochs=6, batch_size=8, learning_rate=0.1).evaluate(task)
    (student,) = task.students

    task = make_task()
    plain = task.student().train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=1, momentum=0.9, weight_decay=5e-4)
    seed, size = seeds.derive("student", task.seed), torch.tensor([8, 8])
    for epoch, rate in enumerate((0.1, 0.1, 0.1, 0.1, 0.02, 0.004)):
        optimizer.param_groups[0]["lr"] = rate
        drawn = views.epoch_views(20, size, seed, epoch, 8, (0.5, 1.0), 1.0, 8, colour_noise=(0.4, 0.1))
        assert drawn.colours is not None
        images = crops.crop_resize(task.images[drawn.order].float() / 255, drawn.boxes, 8, drawn.flips)
        images = task.dataset.normalise(colours.shift_colours(images, drawn.colours))
        for part, mix in zip(drawn.batches, drawn.mixes, strict=True):
            batch, rows = mixing.cutmix(images[part], mix.partner, mix.box), drawn.order[part]
            logits = plain(batch)
            first, second = (
                functional.cross_entropy(logits, task.labels[image], reduction="none")
                for image in (rows, rows[mix.partner])
            )
            losses = mix.share * first + (1 - mix.share) * second
            optimizer.zero_grad()
            (losses * task.weights[rows] * 2).mean().backward()
            optimizer.step()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], tensor, rtol=2e-3, atol=2e-4)


def released_epochs(ipc: int, classes: int) -> int:
    """`argument.py`, `ipc_epoch`."""
    epochs = 3000 if ipc == 1 else next(e for bound, e in ((10, 2000), (50, 1500), (200, 1000)) if ipc <= bound)
    return int(2 / 3 * epochs) // 100 * 100 if classes == 100 else epochs


@pytest.mark.parametrize(("dataset", "classes"), [("imagewoof", 10), ("imagenet-100", 100), ("imagenet-1k", 1000)])
@pytest.mark.parametrize("ipc", [1, 2, 10, 20, 50, 70, 100])
def test_paper_has_the_released_arguments(dataset: str, classes: int, ipc: int) -> None:
    request = Request(("random",), (dataset,), (ipc,), ("paper",), evaluators=("minimax-hard",))
    (cell,) = experiments(request, PluginRegistry())
    tuned = {"learning_rate": 0.1, "weight_decay": 1e-4, "batch_size": 128} if classes > 100 else {}
    assert cell.evaluator == MinimaxHardLabels.model_validate({"epochs": released_epochs(ipc, classes), **tuned})
    assert (cell.student, cell.data.image_size, cell.data.stored_size) == ("resnetap-10", 224, 224)


@pytest.mark.parametrize(("budget", "epochs"), [("quick", 300), ("smoke", 3)])
def test_smaller_budgets_have_fewer_epochs(budget: str, epochs: int) -> None:
    request = Request(("random",), ("imagenette",), (1,), (budget,), evaluators=("minimax-hard",))
    (cell,) = experiments(request, PluginRegistry())
    assert cell.evaluator == MinimaxHardLabels(epochs=epochs)
