"""Values, types and validation errors as text."""

from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from ddbench.core.text import default_text, error_text, type_text, value_text


class Settings(BaseModel, extra="forbid"):
    steps: int = Field(default=10, ge=1, lt=100)
    rate: float = Field(gt=0.5, le=2)
    form: Literal["squared", "norm"] = "norm"
    path: Path | None = None
    betas: tuple[float, float] = (0.5, 0.9)
    names: list[str] = Field(default_factory=list)


@pytest.mark.parametrize(
    ("name", "kind", "default"),
    [
        ("steps", "int, >= 1, < 100", "10"),
        ("rate", "float, > 0.5, <= 2", "required"),
        ("form", "squared | norm", "norm"),
        ("path", "path | null", "null"),
        ("betas", "[float, float]", "[0.5, 0.9]"),
        ("names", "[text, ...]", "[]"),
    ],
)
def test_a_field_as_text(name: str, kind: str, default: str) -> None:
    field = Settings.model_fields[name]
    assert type_text(field) == kind
    assert default_text(field) == default


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False))


@given(st.one_of(SCALARS, st.lists(SCALARS, max_size=4), st.dictionaries(st.sampled_from("abc"), SCALARS)))
def test_a_value_is_read_back_from_its_text(value: Any) -> None:
    text = value_text(value)
    assert "\n" not in text
    if isinstance(value, float):
        assert float(text) == value
    elif not isinstance(value, list | dict):
        assert yaml.safe_load(text) == value


def test_texts_and_paths_are_themselves() -> None:
    assert value_text("a b") == "a b"
    assert value_text(Path("a/b")) == "a/b"
    assert value_text(Settings(rate=1).model_copy(update={"names": ["x"]})).startswith("{steps: 10, rate: 1.0")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"rate": 1, "steps": 0}, "steps: Input should be greater than or equal to 1 (got 0)"),
        ({"rate": 1, "stepz": 3}, "stepz: unknown name (got 3)"),
        ({}, "rate: Field required"),
    ],
)
def test_the_first_problem_is_one_line(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(**values)
    assert error_text(caught.value) == text


def test_a_long_input_is_shortened() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(rate="x" * 10_000)
    assert len(error_text(caught.value)) < 300
    assert error_text(ValueError("a message")) == "a message"


def test_unknown_annotations_are_named() -> None:
    class Colour(Enum):
        RED = 1

    class Painted(BaseModel):
        colour: Colour = Colour.RED

    assert type_text(Painted.model_fields["colour"]) == "Colour"
