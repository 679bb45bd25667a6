"""The text of `ddbench list`: what is installed, or one item with its parameters and the recipes that set them."""

from __future__ import annotations

import dataclasses
import inspect
import shutil
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel

from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator
from ddbench.api.measure import Measure
from ddbench.cli.listing_cost import cost_section
from ddbench.cli.listing_settings import parameter_section, recipe_page, recipe_section
from ddbench.config.schema import DataConfig
from ddbench.core.errors import unknown
from ddbench.core.text import value_text
from ddbench.core.text_layout import format_facts, format_table, join_sections
from ddbench.registry.collection import unknown_item
from ddbench.registry.registry import PluginRegistry

DEFAULT_WIDTH = 100
"""Characters per line if the width of the terminal is not known."""


def listing_text(kind: str, name: str | None, registry: PluginRegistry, width: int | None = None) -> str:
    """Formats the output of `ddbench list KIND [NAME]`.

    Args:
        kind: One of KINDS.
        name: The item to describe; None lists all items.
        registry: The installed plugins.
        width: Characters per line; default: the width of the terminal.

    Returns:
        The text.

    Raises:
        DDBenchError: If the kind or the name is not known.
    """
    if kind not in _LISTINGS:
        raise unknown("listing", kind, _LISTINGS)
    width = width or shutil.get_terminal_size(fallback=(DEFAULT_WIDTH, 24)).columns
    return _LISTINGS[kind](registry, name, width)


def _list_methods(registry: PluginRegistry, name: str | None, width: int) -> str:
    if name is None:
        evaluators = [cls.default_evaluator for cls in registry.distillers()]
        return _model_table("method", registry.distillers(), registry, width, {"evaluator": evaluators})
    cls = registry.distiller(name)
    facts = [
        ("version", cls.version),
        ("paper", cls.paper),
        ("method", cls.summary),
        ("departures", cls.departures),
        ("image passes", cls.cost),
        ("needs a teacher", _yes_no(cls.needs_teacher)),
        ("needs an IPC", _yes_no(cls.needs_ipc)),
        ("default evaluator", cls.default_evaluator),
        *([("caveat", cls.caveat)] if cls.caveat else []),
    ]
    return _model_page("method", cls, Distiller, facts, registry, width, cost_section(cls, registry, width))


def _list_evaluators(registry: PluginRegistry, name: str | None, width: int) -> str:
    if name is None:
        return _model_table("evaluator", registry.evaluators(), registry, width)
    cls = registry.evaluator(name)
    facts = [("version", cls.version), ("paper", cls.paper), ("needs a teacher", _yes_no(cls.needs_teacher))]
    return _model_page("evaluator", cls, Evaluator, facts, registry, width)


def _list_measures(registry: PluginRegistry, name: str | None, width: int) -> str:
    if name is None:
        columns = ("name", "version", "needs", "paper", "from")
        rows = [
            (cls.name, cls.version, ", ".join(cls.needs), cls.paper, registry.distribution_of("measure", cls.name))
            for cls in registry.measures()
        ]
        return format_table(columns, rows, width)
    cls = registry.measure(name)
    facts = [("version", cls.version), ("paper", cls.paper), ("needs", ", ".join(cls.needs))]
    return join_sections(
        _facts("measure", cls, Measure, facts, registry, width),
        parameter_section(name, cls, width),
    )


def _list_datasets(registry: PluginRegistry, name: str | None, width: int) -> str:
    if name is None:
        rows = []
        for spec in registry.datasets():
            classes = "any" if spec.classes is None else str(spec.classes)
            owner = registry.distribution_of("dataset", spec.name)
            rows.append((spec.name, classes, f"{spec.native_size} px", spec.about, owner))
        return format_table(("name", "classes", "size", "about", "from"), rows, width)
    spec = registry.dataset(name)
    values = ((field.name, getattr(spec, field.name)) for field in dataclasses.fields(spec))
    facts = [
        (field.replace("_", " "), value_text(value))
        for field, value in values
        if value is not None and not callable(value)
    ]
    return join_sections(
        format_facts([*facts, ("from", registry.distribution_of("dataset", name))], width),
        parameter_section("data", DataConfig, width),
        recipe_section("data", "dataset", spec.name, DataConfig, registry.recipes(), width),
    )


def _list_models(registry: PluginRegistry, name: str | None, width: int) -> str:
    from ddbench.config.networks import CATALOG, OTHER_NETWORKS

    if name is None:
        rows = ((network.name, network.source, network.about) for network in CATALOG)
        return join_sections(format_table(("name", "source", "about"), rows, width), f"Also {OTHER_NETWORKS}.")
    networks = {network.name: network for network in CATALOG}
    if name not in networks:
        raise unknown("model", name, networks)
    network = networks[name]
    return format_facts([("name", network.name), ("source", network.source), ("about", network.about)], width)


def _list_recipes(registry: PluginRegistry, name: str | None, width: int) -> str:
    recipes = list(registry.recipes())
    names = sorted({recipe.name for recipe in recipes})
    if name is None:
        rows = []
        for each in names:
            parts = [recipe for recipe in recipes if recipe.name == each]
            rows.append((each, parts[0].kind, "\n".join(dict.fromkeys(recipe.about for recipe in parts))))
        return format_table(("name", "kind", "about"), rows, width)
    if name not in names:
        raise unknown_item("recipe", name, names)
    return join_sections(*(recipe_page(recipe, width) for recipe in recipes if recipe.name == name))


def _list_tables(registry: PluginRegistry, name: str | None, width: int) -> str:
    if name is None:
        rows = (
            (spec.name, spec.about, spec.reference, registry.distribution_of("table", spec.name))
            for spec in registry.tables()
        )
        return format_table(("name", "about", "published in", "from"), rows, width)
    spec = registry.table(name)
    owner = registry.distribution_of("table", name)
    facts = [("name", spec.name), ("about", spec.about), ("published in", spec.reference), ("from", owner)]
    return format_facts(facts, width)


_LISTINGS: dict[str, Callable[[PluginRegistry, str | None, int], str]] = {
    "methods": _list_methods,
    "evaluators": _list_evaluators,
    "measures": _list_measures,
    "datasets": _list_datasets,
    "models": _list_models,
    "recipes": _list_recipes,
    "tables": _list_tables,
}

KINDS: tuple[str, ...] = tuple(_LISTINGS)


def _model_table(
    kind: Literal["method", "evaluator"],
    classes: Sequence[type[Distiller]] | Sequence[type[Evaluator]],
    registry: PluginRegistry,
    width: int,
    more: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> str:
    columns = {
        "name": [cls.name for cls in classes],
        "version": [cls.version for cls in classes],
        "paper": [cls.paper for cls in classes],
        "teacher": [_yes_no(cls.needs_teacher) for cls in classes],
        **more,
        "from": [registry.distribution_of(kind, cls.name) for cls in classes],
    }
    return format_table(tuple(columns), zip(*columns.values(), strict=True), width)


def _model_page(
    kind: Literal["method", "evaluator"],
    cls: type[Distiller] | type[Evaluator],
    base: type[BaseModel],
    facts: list[tuple[str, str]],
    registry: PluginRegistry,
    width: int,
    more: str = "",
) -> str:
    return join_sections(
        _facts(kind, cls, base, facts, registry, width),
        more,
        parameter_section(kind, cls, width),
        recipe_section(kind, kind, cls.name, cls, registry.recipes(), width),
    )


def _facts(
    kind: Literal["method", "evaluator", "measure"],
    cls: type[Distiller] | type[Evaluator] | type[Measure],
    base: type[BaseModel],
    facts: list[tuple[str, str]],
    registry: PluginRegistry,
    width: int,
) -> str:
    summary = "" if cls.__doc__ == base.__doc__ else inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0]
    owner = registry.distribution_of(kind, cls.name)
    return format_facts([("name", cls.name), ("about", " ".join(summary.split())), *facts, ("from", owner)], width)


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"
