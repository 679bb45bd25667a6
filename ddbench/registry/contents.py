"""Collects the items that the hooks of one plugin return, and checks them before registration. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ddbench.api.dataset import DatasetSpec
from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator
from ddbench.api.measure import Measure, Need
from ddbench.api.stage import Stage
from ddbench.api.table import TableSpec
from ddbench.api.tracker import Tracker
from ddbench.config.recipes import SECTIONS
from ddbench.registry.collection import Kind
from ddbench.registry.hooks import Hooks

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:-]*")
"""Valid names. A name cannot be mistaken for a path and can be typed on a command line."""


@dataclass(frozen=True)
class PluginContents:
    """The items of one plugin.

    Attributes:
        items: Pairs of a name and an item, for each kind.
        recipe_files: The paths of the recipes.
    """

    items: dict[Kind, list[tuple[str, Any]]]
    recipe_files: list[Path]


def read_contents(hooks: Hooks, plugin: str) -> PluginContents:
    """Calls the hooks of one plugin and checks their return values.

    Args:
        hooks: The registered plugins.
        plugin: The name under which the plugin is registered.

    Raises:
        TypeError: If a hook returns an object of the wrong type.
        ValueError: If a name is invalid or a recipe does not exist.
        Exception: Any exception of the plugin's hooks.
    """

    def results(hook: str) -> list[Any]:
        return [item for implementation in hooks.implementations(hook, plugin) for item in implementation()]

    recipe_files = [Path(path) for path in results("ddbench_recipes")]
    for path in recipe_files:
        if not path.is_file():
            raise ValueError(f"the recipe {path} does not exist")
    items = {kind: [(name_of(item), item) for item in results(hook)] for kind, (hook, name_of) in _HOOKS.items()}
    return PluginContents(items, recipe_files)


def check_name(name: object) -> str:
    """Returns a valid name unchanged.

    Raises:
        ValueError: If `name` is not a string that matches `NAME_PATTERN`.

    Example:
        >>> check_name("wmdd-sliced")
        'wmdd-sliced'
        >>> check_name("../x")
        Traceback (most recent call last):
        ValueError: '../x' is not a valid name: use letters, digits and . _ + : -, and begin with a letter or a digit
    """
    if not (isinstance(name, str) and NAME_PATTERN.fullmatch(name)):
        raise ValueError(
            f"{name!r} is not a valid name: use letters, digits and . _ + : -, and begin with a letter or a digit"
        )
    return name


def _class_name(base: type, *attributes: str) -> Callable[[Any], str]:
    """A check for classes that derive from `base` and have these class variables, which are strings."""

    def check(cls: Any) -> str:
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise TypeError(f"{cls!r} is not a subclass of {base.__name__}")
        for attribute in attributes:
            if not isinstance(getattr(cls, attribute, None), str):
                raise TypeError(f"{cls.__name__} has no class variable `{attribute}` (a string)")
        return check_name(cls.name)  # type: ignore[attr-defined]

    return check


def _measure_name(cls: Any) -> str:
    """A check for measures: they declare what they need, and `--set NAME.SETTING` must not mean another section."""
    name = _class_name(Measure, "name", "version")(cls)
    needs = getattr(cls, "needs", None)
    if not (isinstance(needs, tuple) and set(needs) <= set(get_args(Need))):
        kinds = ", ".join(map(repr, get_args(Need)))
        raise TypeError(f"{cls.__name__} has no class variable `needs` (a tuple of some of {kinds})")
    if name in SECTIONS:
        raise ValueError(f"a measure cannot have the name '{name}', which is a section of settings")
    return name


def _spec_name(base: type) -> Callable[[Any], str]:
    """A check for instances of `base`."""

    def check(spec: Any) -> str:
        if not isinstance(spec, base):
            raise TypeError(f"{spec!r} is not a {base.__name__}")
        return check_name(spec.name)  # type: ignore[attr-defined]

    return check


_HOOKS: dict[Kind, tuple[str, Callable[[Any], str]]] = {
    "method": ("ddbench_distillers", _class_name(Distiller, "name", "version")),
    "evaluator": ("ddbench_evaluators", _class_name(Evaluator, "name", "version")),
    "measure": ("ddbench_measures", _measure_name),
    "dataset": ("ddbench_datasets", _spec_name(DatasetSpec)),
    "table": ("ddbench_tables", _spec_name(TableSpec)),
    "stage": ("ddbench_stages", _class_name(Stage, "name", "version")),
    "tracker": ("ddbench_trackers", _class_name(Tracker, "name")),
}
"""The hook that returns the items of each kind, and the check that returns the name of an item."""
