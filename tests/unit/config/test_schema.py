"""The sections of the configuration: bounds, and what they refuse."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from ddbench.config.schema import DataConfig, DistillConfig, RuntimeConfig, StatisticsConfig, TeacherConfig

SECTIONS = (DataConfig, DistillConfig, RuntimeConfig, StatisticsConfig, TeacherConfig)


@pytest.mark.parametrize("section", SECTIONS)
def test_defaults_are_valid_and_unknown_names_are_refused(section: type[BaseModel]) -> None:
    settings = section()
    assert section(**settings.model_dump()) == settings
    with pytest.raises(ValidationError, match="Extra inputs"):
        section(strange=1)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, next(iter(section.model_fields)), 1)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (DataConfig, {"stored_size": 63, "image_size": 64}),
        (DataConfig, {"holdout": 1.0}),
        (DataConfig, {"image_size": 3}),
        (TeacherConfig, {"stem": "large"}),
        (TeacherConfig, {"learning_rate": float("nan")}),
        (StatisticsConfig, {"variance": "none"}),
        (DistillConfig, {"jpeg_quality": 101}),
        (RuntimeConfig, {"device": "cuda:x"}),
        (RuntimeConfig, {"precision": "fp8"}),
        (RuntimeConfig, {"threads": 0}),
    ],
)
def test_values_out_of_bounds_are_refused(section: type[BaseModel], values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        section(**values)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:3"])
def test_devices(device: str) -> None:
    assert RuntimeConfig(device=device).device == device


def test_threads_that_are_not_set_are_in_no_configuration() -> None:
    assert RuntimeConfig().model_dump() == {"device": "auto", "precision": "auto", "compile": "auto"}
    assert RuntimeConfig(threads=3).model_dump()["threads"] == 3


def test_stored_images_cover_the_crops() -> None:
    assert DataConfig(stored_size=64, image_size=64).stored_size == 64
    with pytest.raises(ValidationError, match="stored_size 63 is smaller than image_size 64"):
        DataConfig(stored_size=63, image_size=64)
