"""Sections of `ddbench list` about settings: parameters of a model, and the recipes that set them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ddbench.config.recipes import Block, Recipe
from ddbench.core.text import default_text, type_text, value_text
from ddbench.core.text_layout import format_facts, format_table, join_sections


def parameter_section(section: str, model: type[BaseModel], width: int) -> str:
    """Formats the parameters of a model as a table.

    Args:
        section: Section of the configuration, for the hint at `--set`.
        model: A pydantic model.
        width: Characters per line.

    Returns:
        A table with name, type, default and description of each parameter.
    """
    rows = [
        (name, type_text(field), default_text(field), " ".join((field.description or "").split()))
        for name, field in _parameters(model)
    ]
    if not rows:
        return "This item has no parameters."
    table = format_table(("name", "type", "default", "meaning"), rows, width)
    return join_sections(f"Parameters (--set {section}.NAME=VALUE):", table)


def _parameters(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Names and fields of a model; those of a nested model are named `outer.inner`."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _parameters(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def recipe_section(
    section: str, kind: str, name: str, model: type[BaseModel], recipes: Iterable[Recipe], width: int
) -> str:
    """Formats the recipe settings of a method, protocol or dataset as a table.

    Args:
        section: Section of the configuration that belongs to the item.
        kind: Kind of the item: "method", "evaluator" or "dataset".
        name: Name of the item.
        model: The model of the section.
        recipes: The installed recipes.
        width: Characters per line.

    Returns:
        A table of the blocks that apply to the item. For a method, blocks that are limited to certain methods are shown
        with their settings in all sections.
    """
    rows = []
    for recipe in recipes:
        for block in recipe.blocks:
            names = next((names for key, names in block.applies.items() if key == kind), [])
            if names and name not in names:
                continue
            settings = []
            for path, value in _settings(block):
                block_section, _, key = path.partition(".")
                if block_section == section and key in model.model_fields:
                    settings.append(f"{key}={value_text(value)}")
                elif block_section != section and kind == "method" and names:
                    settings.append(f"{path}={value_text(value)}")
            if settings:
                rows.append((recipe.name, _conditions(block, without=kind), "\n".join(settings), block.source))
    if not rows:
        return "No recipe has settings for this item."
    return join_sections("Set by recipes:", format_table(("recipe", "where", "sets", "source"), rows, width))


def recipe_page(recipe: Recipe, width: int) -> str:
    """Formats a recipe with all its blocks.

    Args:
        recipe: The recipe.
        width: Characters per line.

    Returns:
        Its facts, and a table with condition, settings and source of each block.
    """
    facts = [
        ("name", recipe.name),
        ("kind", recipe.kind),
        ("about", recipe.about),
        ("file", _path_in_package(recipe.path)),
    ]
    rows = [
        (_conditions(block), "\n".join(f"{path}={value_text(value)}" for path, value in _settings(block)), block.source)
        for block in recipe.blocks
    ]
    return join_sections(format_facts(facts, width), format_table(("where", "sets", "source"), rows, width))


def _settings(block: Block) -> Iterator[tuple[str, Any]]:
    for section, values in block.settings.items():
        for key, value in values.items():
            yield f"{section}.{key}", value


def _conditions(block: Block, without: str = "") -> str:
    limits = [f"{kind} {', '.join(names)}" for kind, names in block.applies.items() if kind != without]
    return "; ".join(limits) or "always"


def _path_in_package(path: Path) -> str:
    return "/".join(path.parts[-3:])
