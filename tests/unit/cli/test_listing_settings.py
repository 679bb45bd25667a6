"""Parameters of a model and settings of recipes, as `ddbench list` shows them."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field

from ddbench.cli.listing_settings import parameter_section, recipe_page, recipe_section
from ddbench.config.recipes import load_file


class Inner(BaseModel):
    decay: float = Field(default=0.5, description="how much of\n    it is left")


class Model(BaseModel):
    steps: int = Field(default=100, description="steps")
    inner: Inner = Inner()


class Nothing(BaseModel):
    pass


RECIPE = """
name: mine
kind: numerics
about: For a test.
blocks:
  - source: everywhere
    settings: {method: {steps: 3}, teacher: {epochs: 2}}
  - applies: {method: [wmdd, dm]}
    source: two methods
    settings: {method: {steps: 7}, teacher: {epochs: 9}}
  - applies: {method: [random], dataset: [digits]}
    source: another method
    settings: {method: {steps: 8}}
"""


def test_nested_parameters_are_named_by_their_path() -> None:
    text = parameter_section("method", Model, 100)
    assert text.startswith("Parameters (--set method.NAME=VALUE):")
    rows = [line.split() for line in text.splitlines() if line.strip().startswith(("steps", "inner"))]
    assert rows == [
        ["steps", "int", "100", "steps"],
        ["inner.decay", "float", "0.5", *["how", "much", "of", "it", "is", "left"]],
    ]
    assert parameter_section("method", Nothing, 100) == "This item has no parameters."


def test_a_method_shows_the_blocks_that_apply_to_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE)
    recipe = load_file(path)
    text = recipe_section("method", "method", "wmdd", Model, [recipe], 100)
    assert "steps=3" in text
    assert "steps=7" in text
    assert "teacher.epochs=9" in text  # of a block for this method
    assert "teacher.epochs=2" not in text  # of a block for all
    assert "steps=8" not in text
    assert recipe_section("method", "method", "wmdd", Nothing, [], 100) == "No recipe has settings for this item."


def test_a_recipe_shows_every_block_with_its_condition(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE)
    text = recipe_page(load_file(path), 100)
    for part in ("mine", "numerics", "For a test.", "always", "method wmdd, dm", "method random; dataset digits"):
        assert part in text
    for setting in ("method.steps=3", "teacher.epochs=2", "method.steps=7", "teacher.epochs=9", "method.steps=8"):
        assert setting in text
