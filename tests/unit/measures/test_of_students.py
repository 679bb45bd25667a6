"""Measures of students: their values by name, their settings, their cost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from ddbench.data.dataset import Dataset
from ddbench.distillation.context import MeasureContext
from ddbench.measures.calibration import calibration_error
from ddbench.measures.of_students import CalibrationError, CommonCorruptions, ProjectedGradient
from ddbench.measures.predictions import student_logits


def test_values_and_their_names(measure_task: Callable[..., MeasureContext], nearest_mean: nn.Module) -> None:
    task = measure_task(nearest_mean)
    probabilities = student_logits(task).softmax(1)
    expected = 100 * calibration_error(probabilities, task.dataset.val.labels, 15)
    assert CalibrationError().compute(task) == {"ece": expected}
    corrupted = CommonCorruptions(severities=(1,)).compute(task)
    assert list(corrupted) == ["top1", "gaussian_noise", "defocus_blur", "contrast", "brightness", "jpeg"]
    assert corrupted["top1"] == pytest.approx(sum(list(corrupted.values())[1:]) / 5)
    attacked = ProjectedGradient(steps=2).compute(task)
    assert attacked.keys() == {"top1", "clean"}
    assert attacked["top1"] <= attacked["clean"]


def test_the_logits_are_those_of_the_evaluation_view(
    measure_task: Callable[..., MeasureContext], nearest_mean: nn.Module
) -> None:
    task = measure_task(nearest_mean)
    views = task.dataset.evaluation_view("val", torch.arange(len(task.dataset.val)))
    torch.testing.assert_close(student_logits(task), nearest_mean(views))


def test_a_step_costs_a_pass_of_every_image(digits: Dataset) -> None:
    images = sum(digits.info.val_counts)
    assert ProjectedGradient(steps=7).image_passes(digits.info) == 7 * images
    assert CommonCorruptions(severities=(1, 2)).image_passes(digits.info) == pytest.approx(10 * images / 3)
    assert CalibrationError().image_passes(digits.info) == pytest.approx(images / 3)


@pytest.mark.parametrize(
    ("measure", "settings"),
    [
        (CalibrationError, {"bins": 0}),
        (CommonCorruptions, {"severities": (6,)}),
        (CommonCorruptions, {"severities": ()}),
        (ProjectedGradient, {"epsilon": 2}),
        (ProjectedGradient, {"step_size": 0}),
    ],
)
def test_impossible_settings_are_refused(measure: type, settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        measure(**settings)
