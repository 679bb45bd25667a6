"""The output of `ddbench list`: all parameters, the recipes that set them, and no line wider than the terminal."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import ClassVar, Literal

import pytest
from pydantic import BaseModel, Field

from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator
from ddbench.api.hookspecs import hookimpl
from ddbench.api.measure import Measure, Need
from ddbench.api.table import TableSpec
from ddbench.cli.listing import KINDS, listing_text
from ddbench.config.recipes import builtin_paths
from ddbench.config.schema import DataConfig
from ddbench.core.errors import DDBenchError
from ddbench.core.text_layout import format_table
from ddbench.data import registry as builtin_datasets
from ddbench.registry.registry import PluginRegistry


class Inner(BaseModel, frozen=True):
    rate: float = Field(default=1e-3, gt=0, le=1, description="inner rate (Eq. 3)")


class Herring(Distiller, frozen=True):
    """Matches herrings.

    More about it, for its author.
    """

    name = "herring"
    version = "1.10"
    paper = "Fisher et al., 1936"

    form: Literal["squared", "norm"] = Field(default="squared", description="squared: Eq. 12; norm: as released")
    steps: int = Field(default=500, ge=1, description="steps of Adam (section 5.1)")
    anchor: float | None = Field(default=None, description="none in the paper")
    betas: tuple[float, float] = Field(default=(0.5, 0.9), description="betas of Adam")
    must: str = Field(description="has no default")
    inner: Inner = Inner()


class Plain(Distiller, frozen=True):
    """Has nothing to set."""

    name = "plain"
    version = "2"
    needs_teacher = False


class Strict(Evaluator, frozen=True):
    """Measures strictly."""

    name = "strict"
    version = "3"
    epochs: int = Field(default=300, ge=1, description="epochs of the student")


class Wet(Measure, frozen=True):
    """Measures the water."""

    name = "wet"
    version = "1"
    paper = "a paper with a title that is longer than the terminal of a person with small windows is wide"
    needs: ClassVar[tuple[Need, ...]] = ("set", "teacher")
    depth: int = Field(default=3, ge=1, description="depth of the water")


RECIPE = """
    name: trial
    kind: numerics
    about: For tests.
    blocks:
      - source: "Table 7 of the herring paper"
        applies: {method: [herring], dataset: [imagenette, digits]}
        settings:
          method: {steps: 2000, form: norm}
          statistics: {variance: batch-mean}
      - source: "another method's block"
        applies: {method: [plain]}
        settings: {method: {steps: 7}}
      - source: "for whoever has steps"
        settings: {method: {steps: 1, depth: 3}, evaluator: {epochs: 5}}
"""


@pytest.fixture
def registry(tmp_path: Path) -> PluginRegistry:
    recipe = tmp_path / "trial.yaml"
    recipe.write_text(dedent(RECIPE))
    plugin = SimpleNamespace(
        ddbench_distillers=hookimpl(lambda: [Plain, Herring]),
        ddbench_evaluators=hookimpl(lambda: [Strict]),
        ddbench_measures=hookimpl(lambda: [Wet]),
        ddbench_recipes=hookimpl(lambda: [recipe]),
        ddbench_tables=hookimpl(lambda: [TableSpec("all", "all against all", lambda request: [])]),
    )
    core = SimpleNamespace(ddbench_recipes=hookimpl(lambda: builtin_paths()))
    actual = PluginRegistry(())
    actual.register(plugin, "ddbench-sea")
    actual.register(builtin_datasets, "ddbench")
    actual.register(core, "ddbench")
    return actual


def rows(text: str) -> list[list[str]]:
    """The cells of a table's lines, split at two or more spaces."""
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines() if line.strip()]


def test_methods_are_a_table(registry: PluginRegistry) -> None:
    text = listing_text("methods", None, registry, width=100)
    assert rows(text)[0] == ["name", "version", "paper", "teacher", "evaluator", "from"]
    assert rows(text)[2] == ["herring", "1.10", "Fisher et al., 1936", "yes", "fkd", "ddbench-sea"]
    assert rows(text)[3] == ["plain", "2", "no", "fkd", "ddbench-sea"]


def test_a_method_shows_every_parameter_with_type_default_and_meaning(registry: PluginRegistry) -> None:
    text = listing_text("methods", "herring", registry, width=120)
    lines = rows(text)
    assert ["about", "Matches herrings."] in lines
    assert ["from", "ddbench-sea"] in lines
    assert ["form", "squared | norm", "squared", "squared: Eq. 12; norm: as released"] in lines
    assert ["steps", "int, >= 1", "500", "steps of Adam (section 5.1)"] in lines
    assert ["anchor", "float | null", "null", "none in the paper"] in lines
    assert ["betas", "[float, float]", "[0.5, 0.9]", "betas of Adam"] in lines
    assert ["must", "text", "required", "has no default"] in lines
    assert ["inner.rate", "float, > 0, <= 1", "0.001", "inner rate (Eq. 3)"] in lines


def test_a_method_shows_which_recipes_set_it(registry: PluginRegistry) -> None:
    text = listing_text("methods", "herring", registry, width=140)
    lines = rows(text[text.index("Set by recipes") :])
    assert ["trial", "dataset imagenette, digits", "steps=2000", "Table 7 of the herring paper"] in lines
    assert ["form=norm"] in lines
    assert ["statistics.variance=batch-mean"] in lines
    assert ["trial", "always", "steps=1", "for whoever has steps"] in lines
    # Neither another method's values, nor a parameter that this one does not have, nor the protocol's.
    assert "another method" not in text
    assert "depth" not in text
    assert "epochs" not in text


def test_a_method_without_parameters_says_so(registry: PluginRegistry) -> None:
    text = listing_text("methods", "plain", registry, width=80)
    assert "This item has no parameters." in text
    assert "No recipe has settings for this item." in text


def test_an_evaluator_shows_its_parameters_and_recipes(registry: PluginRegistry) -> None:
    assert rows(listing_text("evaluators", None, registry, 80))[2] == ["strict", "3", "yes", "ddbench-sea"]
    lines = rows(listing_text("evaluators", "strict", registry, 120))
    assert ["epochs", "int, >= 1", "300", "epochs of the student"] in lines
    assert ["trial", "always", "epochs=5", "for whoever has steps"] in lines


def test_datasets_show_facts_and_settings(registry: PluginRegistry) -> None:
    table = rows(listing_text("datasets", None, registry, 140))
    assert any(row[:3] == ["digits", "10", "8 px"] for row in table)
    text = listing_text("datasets", "digits", registry, 140)
    assert ["val size", "360"] in rows(text)
    assert all(name in text for name in DataConfig.model_fields)
    assert ["quick", "always", "image_size=16"] in [row[:3] for row in rows(text)]


def test_recipes_show_every_value_with_its_source(registry: PluginRegistry) -> None:
    assert ["trial", "numerics", "For tests."] in rows(listing_text("recipes", None, registry, 120))
    text = listing_text("recipes", "trial", registry, 140)
    assert "method herring; dataset imagenette, digits" in text
    assert "method.steps=2000" in text
    assert "Table 7 of the herring paper" in text


def test_models_and_tables(registry: PluginRegistry) -> None:
    assert "resnet18" in listing_text("models", None, registry, 100)
    assert ["source", "torchvision"] in rows(listing_text("models", "resnet18", registry, 100))
    assert ["all", "all against all", "ddbench-sea"] in rows(listing_text("tables", None, registry, 100))
    assert ["about", "all against all"] in rows(listing_text("tables", "all", registry, 100))


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("methods", "hering", "unknown method 'hering'; did you mean 'herring'"),
        ("evaluators", "strickt", "did you mean 'strict'"),
        ("datasets", "digit", "did you mean 'digits'"),
        ("models", "resnet81", "unknown model 'resnet81'; did you mean 'resnet18'"),
        ("recipes", "quik", "unknown recipe 'quik'; did you mean 'quick'"),
        ("tables", "al", "unknown table"),
        ("method", None, "did you mean 'methods'"),
    ],
)
def test_unknown_names(registry: PluginRegistry, kind: str, name: str | None, message: str) -> None:
    with pytest.raises(DDBenchError, match=message):
        listing_text(kind, name, registry)


@pytest.mark.parametrize("width", [72, 80, 120])
def test_every_page_fits_the_terminal(registry: PluginRegistry, width: int) -> None:
    names = {
        "methods": ["herring", "plain"],
        "evaluators": ["strict"],
        "measures": ["wet"],
        "datasets": [spec.name for spec in registry.datasets()],
        "models": ["resnet18"],
        "recipes": ["paper", "quick", "smoke", "trial"],
        "tables": ["all"],
    }
    for kind in KINDS:
        for name in (None, *names[kind]):
            text = listing_text(kind, name, registry, width)
            assert max(len(line) for line in text.splitlines()) <= width, (kind, name, text)


def test_narrow_tables_lose_no_text() -> None:
    cells = ["a cell of some words", "another one with Averylongwordthatfitsnowhereatall in it", "1.10"]
    text = format_table(("x", "y", "z"), [cells], width=40)
    assert max(len(line) for line in text.splitlines()) <= 40
    shown = "".join(text.splitlines()[2:]).replace(" ", "")
    assert sorted(shown) == sorted("".join(cells).replace(" ", ""))


def test_an_empty_registry_lists() -> None:
    empty = PluginRegistry(())
    for kind in KINDS:
        assert listing_text(kind, None, empty, 80)
