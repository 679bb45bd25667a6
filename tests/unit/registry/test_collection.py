"""Items of one kind: unique names, owners, suggestions."""

from typing import Any

import pytest

from ddbench.core.errors import DDBenchError
from ddbench.registry.collection import Collection, Kind, known_packages
from ddbench.registry.registry import PluginRegistry


def collection() -> Collection[int]:
    actual: Collection[int] = Collection("method")
    actual.add([("wmdd", 2), ("random", 1)], "ddbench")
    return actual


def test_items_are_found_by_name_and_listed_in_order() -> None:
    actual = collection()
    assert (actual.find("wmdd"), actual.all(), actual.owners["wmdd"]) == (2, (1, 2), "ddbench")
    with pytest.raises(DDBenchError, match="unknown method 'wmd'; did you mean 'wmdd'"):
        actual.find("wmd")


def test_a_name_that_is_taken_names_both_owners() -> None:
    actual = collection()
    actual.check_unique([("other", 3)], "mine")
    with pytest.raises(DDBenchError, match="method 'wmdd' is registered by both ddbench and mine"):
        actual.check_unique([("other", 3), ("wmdd", 3)], "mine")
    with pytest.raises(DDBenchError, match="registered by both mine and mine"):
        actual.check_unique([("other", 3), ("other", 4)], "mine")
    assert actual.all() == (1, 2)


def test_the_packages_of_known_items_are_those_of_the_plugins_here() -> None:
    registry, known = PluginRegistry(), known_packages()
    items: dict[Kind, Any] = {
        "method": registry.distillers(),
        "evaluator": registry.evaluators(),
        "dataset": registry.datasets(),
        "table": registry.tables(),
        "stage": registry.stages(),
    }
    owned: dict[tuple[str, str], str] = {
        (kind, item.name): registry.distribution_of(kind, item.name) for kind in items for item in items[kind]
    }
    folders: dict[str, set[str]] = {}
    for recipe in registry.recipes():
        folders.setdefault(recipe.name, set()).add(recipe.path.parts[-3])  # .../ddbench_wmdd/recipes/tuned.yaml
    for name, packages in folders.items():
        if len(packages) == 1:
            owned["recipe", name] = next(iter(packages)).replace("_", "-")
    assert {item: owner for item, owner in owned.items() if owner in known.values()} == known
