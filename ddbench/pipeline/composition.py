"""Selects the recipes of a run and composes their settings. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.config.given_sets import METHOD_PREFIX
from ddbench.config.recipes import SECTIONS, Block, Recipe, load_file
from ddbench.core.errors import DDBenchError
from ddbench.registry.collection import unknown_item

if TYPE_CHECKING:
    from ddbench.registry.registry import PluginRegistry


def load_recipes(names: Iterable[str], registry: PluginRegistry) -> list[Recipe]:
    """Returns all installed recipes and the files among `names`.

    Raises:
        DDBenchError: A name is unknown, or a file is not a recipe or has the name of an installed recipe.
    """
    known = list(registry.recipes())
    for name in names:
        if name.endswith((".yaml", ".yml")):
            recipe = load_file(Path(name))
            if recipe.name in {other.name for other in known}:
                raise DDBenchError(f"recipe {name} is called '{recipe.name}', like an installed one: rename it")
            known.append(recipe)
        elif name not in {recipe.name for recipe in known}:
            raise unknown_item("recipe", name, {recipe.name for recipe in known})
    return known


def recipe_names(
    chosen: tuple[str, ...], known: list[Recipe], dataset: str, method: str, evaluator: str
) -> tuple[str, ...]:
    """Returns the names of the recipes of a cell, in order.

    If no budget is chosen, the default budget comes first: `paper` if it has sizes for the dataset with every method
    and protocol, else `quick`. So all cells of a dataset have the same default.

    Args:
        chosen: The names or files given by the user.
        known: All recipes, from `load_recipes`.
        dataset: The name of the dataset.
        method: The name of the method.
        evaluator: The name of the protocol.

    Raises:
        DDBenchError: Two budgets are chosen, or one that has no sizes for the dataset, method and protocol.
    """
    names = tuple(_recipe_name(name, known) for name in chosen)
    budgets = {recipe.name for recipe in known if recipe.kind == "budget"}
    chosen_budgets = sorted(budgets & set(names))
    if not chosen_budgets:
        names = ("paper" if _covers("paper", known, dataset=dataset) else "quick", *names)
    cell = {"dataset": dataset, "method": _kind(method), "evaluator": evaluator}
    for name in names:
        if name in budgets and not _covers(name, known, **cell):
            others = sorted(other for other in budgets if _covers(other, known, **cell))
            problem = f"recipe '{name}' has no sizes for dataset '{dataset}'"
            if any(dataset in block.applies.get("dataset", ()) for block in _size_blocks(name, known)):
                problem += f" with method '{method}' and evaluator '{evaluator}'"
            raise DDBenchError(f"{problem}; choose one of: {', '.join(others)}")
    if len(chosen_budgets) > 1:
        raise DDBenchError(f"--recipe: one budget at a time, not {' and '.join(chosen_budgets)}")
    return names


def recipe_files(chosen: tuple[str, ...], known: list[Recipe]) -> dict[str, str]:
    """Returns the names of the recipe files that the user gave, without folders, by the name of the recipe.

    Args:
        chosen: The names or files given by the user.
        known: All recipes, from `load_recipes`.
    """
    return {_recipe_name(name, known): Path(name).name for name in chosen if name.endswith((".yaml", ".yml"))}


def _recipe_name(name: str, known: list[Recipe]) -> str:
    if not name.endswith((".yaml", ".yml")):
        return name
    return next(recipe.name for recipe in reversed(known) if recipe.path == Path(name))


def _kind(method: str) -> str:
    """Returns the name that blocks have for a method: `given` for a given set, else its own."""
    return METHOD_PREFIX.removesuffix(":") if method.startswith(METHOD_PREFIX) else method


def _size_blocks(name: str, known: list[Recipe]) -> Iterator[Block]:
    blocks = (block for recipe in known if recipe.name == name for block in recipe.blocks)
    return (block for block in blocks if "image_size" in block.settings.get("data", {}))


def _covers(name: str, known: list[Recipe], **cell: str) -> bool:
    context = {"budget": [name], **{key: [value] for key, value in cell.items()}}
    return any(block.matches(context) for block in _size_blocks(name, known))


def matching_blocks(
    known: Iterable[Recipe], names: tuple[str, ...], dataset: str, method: str, ipc: int | None, evaluator: str
) -> Iterator[tuple[Recipe, Block]]:
    """Yields the blocks of the recipes `names` that apply to a cell, in order: a later one replaces an earlier one."""
    context = {"dataset": [dataset], "method": [_kind(method)], "evaluator": [evaluator], "budget": list(names)}
    if ipc is not None:
        context["ipc"] = [str(ipc)]
    for name in names:
        for recipe in known:
            if recipe.name == name:
                yield from ((recipe, block) for block in recipe.blocks if block.matches(context))


def compose(
    known: Iterable[Recipe], names: tuple[str, ...], dataset: str, method: str, ipc: int | None, evaluator: str
) -> dict[str, dict[str, Any]]:
    """Returns the settings of the recipes `names`, by section; a later recipe replaces an earlier one."""
    settings: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for _, block in matching_blocks(known, names, dataset, method, ipc, evaluator):
        for section, values in block.settings.items():
            settings[section].update(values)
    return settings
