"""The length of a student's training: exact steps on sets of every size, and what they are measured at."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from ddbench.api.evaluator import Evaluator, Metrics
from ddbench.core.errors import DDBenchError
from ddbench.core.text import error_text
from ddbench.evaluators import ddbench_evaluators
from ddbench.evaluators.length import EpochsOrSteps, Length
from ddbench.evaluators.protocols import HardLabels, KnowledgeDistillation, SiameseAugmentation
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.checkpoint import Checkpoint
from ddbench.training import loop
from ddbench.training.schedules import cosine

if TYPE_CHECKING:
    from tests.unit.evaluators.conftest import WatchedTask

BY_NAME: dict[str, type[Evaluator]] = {protocol.name: protocol for protocol in ddbench_evaluators()}
PROTOCOLS = [name for name, protocol in BY_NAME.items() if issubclass(protocol, EpochsOrSteps) and name != "replay"]
Tasks = Callable[..., "WatchedTask"]


def train(task: WatchedTask, name: str, **settings: Any) -> Metrics:
    return BY_NAME[name].model_validate(settings).evaluate(task)


def test_the_protocols_with_epochs() -> None:
    assert {"fkd", "soft", "hard", "rded", "dsa", "own"} <= {*PROTOCOLS}


@pytest.mark.parametrize(
    ("ipc", "batch_size", "sizes"),
    [
        (1, 100, [10] * 7),  # an epoch is one step
        (2, 8, [8, 8, 4, 8, 8, 4, 8]),  # the last epoch is a third of one
        (2, 19, [20] * 7),  # a last batch of one image is merged
        (7, 8, [8] * 7),  # shorter than an epoch
    ],
)
def test_a_student_takes_exactly_the_steps(make_task: Tasks, ipc: int, batch_size: int, sizes: list[int]) -> None:
    task = make_task(ipc=ipc)
    assert train(task, "hard", steps=7, batch_size=batch_size).student_steps == 7
    assert [len(images) for images in task.shown] == sizes


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_steps_of_whole_epochs_give_the_student_of_these_epochs(make_task: Tasks, name: str) -> None:
    expected = train(make_task(), name, epochs=2, batch_size=8)
    assert expected.student_steps == 6
    assert train(make_task(), name, steps=6, batch_size=8) == expected


def test_steps_are_those_on_the_images_that_are_not_held_out(make_task: Tasks) -> None:
    """10 of 20 images are trained on, in two steps an epoch; the fourth epoch, of one step, can be selected."""
    task = make_task()
    result = train(task, "hard", steps=7, batch_size=8, select_share=0.5)
    assert [len(images) for images in task.shown] == [8, 2, 8, 2, 8, 2, 8]
    assert result.student_steps == 7
    assert result.selected_epoch in range(1, 5)


def test_stored_labels_are_those_of_the_started_epochs(make_task: Tasks) -> None:
    online = train(make_task(), "fkd", steps=4, batch_size=8)
    assert train(make_task(), "fkd", steps=4, batch_size=8, labels="stored") == online
    assert online.label_bytes == train(make_task(), "fkd", epochs=2, batch_size=8).label_bytes


def test_the_learning_rate_follows_the_cosine_over_the_exact_length(make_task: Tasks) -> None:
    rates: list[float] = []
    task = make_task(report=lambda step, total, **metrics: rates.append(metrics["learning_rate"]))
    train(task, "hard", steps=7, batch_size=8, learning_rate=0.1)  # 3 steps an epoch
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * 3 * epoch / 7)) for epoch in range(3)])


@pytest.mark.parametrize("steps", range(1, 13))
def test_whole_epochs_have_the_schedule_of_their_number(steps: int) -> None:
    length = Length(steps, 3)
    assert length.epochs == -(-steps // 3)
    if steps % 3 == 0:
        factors = [length.schedule(cosine)(epoch, length.epochs) for epoch in range(length.epochs)]
        assert factors == [cosine(epoch, length.epochs) for epoch in range(length.epochs)]


@pytest.mark.parametrize("name", ["fkd", "hard", "own", "edc"])
def test_the_curve_ends_with_the_result_and_changes_nothing(make_task: Tasks, name: str) -> None:
    plain = train(make_task(), name, epochs=2, batch_size=8)
    curved = train(make_task(), name, epochs=2, batch_size=8, measure_at=[2, 3])
    assert curved.curve is not None
    assert [step for step, _ in curved.curve] == [2, 3, 6]
    assert curved.curve[-1] == (6, curved.top1_last)
    assert curved.model_copy(update={"curve": None}) == plain
    assert "curve" not in plain.model_dump()


def test_a_killed_run_has_the_same_curve(make_task: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    options = {"steps": 11, "batch_size": 8, "measure_at": [1, 4, 8, 10]}
    expected = train(make_task(checkpoint=Checkpoint(tmp_path / "whole.safetensors")), "hard", **options)

    def die(epoch: int, epochs: int, **metrics: float) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_task(report=die), "hard", **options)
    resumed = make_task()
    assert train(resumed, "hard", **options) == expected
    assert len(resumed.shown) == 11 - 2 * 3


def test_the_points_are_those_of_the_network_at_that_step(make_task: Tasks) -> None:
    """In the first of four epochs of `dsa`, the rate is that of a run of two or three steps."""
    options = {"batch_size": 8, "learning_rate": 0.05}
    long = train(make_task(), "dsa", epochs=4, measure_at=[2, 3], **options)
    assert long.curve is not None
    assert long.curve[:2] == [(n, train(make_task(), "dsa", steps=n, **options).top1_last) for n in (2, 3)]


def test_the_best_epoch_is_that_of_the_validated_epochs(make_task: Tasks) -> None:
    """`validate_every` and `measure_at` share measurements, and neither changes the other's result."""
    options = {"epochs": 6, "batch_size": 8, "learning_rate": 0.05}
    validated = train(make_task(), "hard", validate_every=2, **options)
    both = train(make_task(), "hard", validate_every=2, measure_at=[1, 3, 5, 6, 12, 17], **options)
    assert both.curve is not None
    assert [step for step, _ in both.curve] == [1, 3, 5, 6, 12, 17, 18]
    points = dict(both.curve)
    assert both.top1_best == validated.top1_best == max(points[step] for step in (6, 12, 18))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 3, "steps": 9}, "epochs and steps: give one of them"),
        ({"epochs": None}, "epochs: a number is needed, or steps"),
        ({"steps": 0}, "steps: Input should be greater than or equal to 1"),
        ({"steps": 9, "measure_at": [3, 10]}, "measure_at: the student takes 9 optimiser steps, not 10"),
        ({"measure_at": [3, 3]}, "measure_at: increasing numbers of steps from 1"),
        ({"measure_at": [0]}, "measure_at: increasing numbers of steps from 1"),
    ],
)
def test_an_impossible_length_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        HardLabels.model_validate(settings)
    assert error_text(caught.value).startswith(message)


def test_points_after_the_last_epoch_are_refused_before_training(make_task: Tasks) -> None:
    task = make_task()
    with pytest.raises(DDBenchError, match=r"^evaluator.measure_at: the student takes 6 optimiser steps, not 7$"):
        train(task, "hard", epochs=2, batch_size=8, measure_at=[7])
    assert task.shown == []


def test_defaults_are_not_in_keys_and_records() -> None:
    for name in PROTOCOLS:
        assert not {"steps", "measure_at"} & set(BY_NAME[name]().model_dump())
    assert KnowledgeDistillation(steps=5).model_dump()["epochs"] is None


@pytest.mark.parametrize(("images", "passes"), [(100, 1000), (250, 833), (20, 200)])
def test_passes_of_steps(images: int, passes: int) -> None:
    assert HardLabels(steps=10, batch_size=100).image_passes(images) == passes
    assert SiameseAugmentation(epochs=7).image_passes(images) == 7 * images


def cell(*assignments: str, evaluator: str = "fkd") -> Evaluator:
    request = Request(("random",), ("digits",), (1,), ("smoke",), evaluators=(evaluator,), assignments=assignments)
    return experiments(request, PluginRegistry())[0].evaluator


def test_steps_replace_the_epochs_of_a_recipe() -> None:
    for evaluator in ("fkd", "own"):
        chosen = cell("evaluator.steps=40", evaluator=evaluator)
        assert chosen == BY_NAME[evaluator].model_validate(
            {**cell(evaluator=evaluator).model_dump(), "epochs": None, "steps": 40}
        )
    assert cell("evaluator.steps=null") == cell()


def test_epochs_and_steps_by_hand_are_refused() -> None:
    with pytest.raises(DDBenchError, match=r"^evaluator.epochs and steps \(fkd\): give one of them") as caught:
        cell("evaluator.steps=40", "evaluator.epochs=3")
    assert "\n" not in str(caught.value)
