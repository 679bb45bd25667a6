"""The items of a plugin are checked before they are registered."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ddbench.api.distiller import Distiller
from ddbench.api.hookspecs import hookimpl
from ddbench.api.measure import Measure
from ddbench.api.table import TableSpec
from ddbench.registry.contents import check_name, read_contents
from ddbench.registry.hooks import Hooks


class Blur(Distiller, frozen=True):
    name, version = "blur", "1"


class Nameless(Distiller, frozen=True):
    version = "1"


class Unversioned(Distiller, frozen=True):
    name = "x"


class Needless(Measure, frozen=True):
    name, version = "needless", "1"


class Misnamed(Measure, frozen=True):
    name, version, needs = "data", "1", ("set",)


class Misspelt(Measure, frozen=True):
    name, version, needs = "misspelt", "1", ("sets",)  # type: ignore[assignment]


def hooks_of(**values: Any) -> Hooks:
    hooks = Hooks()
    plugin = {f"ddbench_{name}": hookimpl(lambda value=value: value) for name, value in values.items()}
    hooks.add(SimpleNamespace(**plugin), "plugin", "dist")
    return hooks


def test_items_of_every_kind(tmp_path: Path) -> None:
    recipe = tmp_path / "a.yaml"
    recipe.touch()
    spec = TableSpec("mine", "about", lambda query: [])
    actual = read_contents(hooks_of(distillers=[Blur], tables=[spec], recipes=[str(recipe)]), "plugin")
    assert actual.items["method"] == [("blur", Blur)]
    assert actual.items["table"] == [("mine", spec)]
    assert actual.items["evaluator"] == actual.items["dataset"] == []
    assert actual.recipe_files == [recipe]


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ({"distillers": [Nameless]}, TypeError, "Nameless has no class variable `name`"),
        ({"distillers": [Unversioned]}, TypeError, "Unversioned has no class variable `version`"),
        ({"distillers": [int]}, TypeError, "is not a subclass of Distiller"),
        ({"evaluators": [Blur]}, TypeError, "is not a subclass of Evaluator"),
        ({"measures": [Needless]}, TypeError, "Needless has no class variable `needs` (a tuple of some of 'student', "),
        ({"measures": [Misspelt]}, TypeError, "Misspelt has no class variable `needs` (a tuple of some of 'student', "),
        ({"measures": [Misnamed]}, ValueError, "a measure cannot have the name 'data', which is a section of settings"),
        ({"datasets": [3]}, TypeError, "3 is not a DatasetSpec"),
        ({"tables": [TableSpec("../x", "a", lambda query: [])]}, ValueError, "'../x' is not a valid name"),
        ({"recipes": ["absent.yaml"]}, ValueError, "the recipe absent.yaml does not exist"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        read_contents(hooks_of(**values), "plugin")
    assert text in str(caught.value)


@pytest.mark.parametrize("name", ["", "-x", ".x", "a/b", "a b", "a\n", 3, None, "é"])
def test_names_that_are_none(name: object) -> None:
    with pytest.raises(ValueError, match="is not a valid name"):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "wmdd-sliced", "imagenet-1k", "0", "a.b_c+d:e"])
def test_names(name: str) -> None:
    assert check_name(name) == name
