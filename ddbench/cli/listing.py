"""The text of `ddbench list`: what is installed, every parameter, and the recipes that set it."""

from __future__ import annotations

import dataclasses
import inspect
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator
from ddbench.config.recipes import Block, Recipe
from ddbench.config.schema import DataConfig
from ddbench.core.errors import unknown
from ddbench.core.text import default_text, type_text, value_text
from ddbench.registry.registry import PluginRegistry

MIN_COLUMN = 12
"""No column of a table is made narrower than this many characters."""


def text(kind: str, name: str | None, registry: PluginRegistry, width: int | None = None) -> str:
    """What `ddbench list KIND [NAME]` prints; `kind` is one of KINDS.

    `width` is in characters, by default the terminal's. Raises DDBenchError for an unknown kind or name.
    """
    if kind not in LISTINGS:
        raise unknown("listing", kind, LISTINGS)
    width = width or shutil.get_terminal_size(fallback=(100, 24)).columns
    return LISTINGS[kind](registry, name, width)


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], width: int) -> str:
    """A plain text table, its cells wrapped so that no line is longer than `width` where that is possible."""
    from tabulate import tabulate

    cells = [list(row) for row in rows]
    # tabulate keeps two spaces free beside a heading.
    columns = ["\n".join((f"{head}  ", *column)) for head, *column in zip(headers, *cells, strict=True)]
    widths = _fit(
        [max(len(line) for line in column.split("\n")) for column in columns],
        [max(len(word) for word in column.split()) for column in columns],
        width - 2 * (len(headers) - 1),
    )
    heads = [_wrap(head, room - 2) for head, room in zip(headers, widths, strict=True)]
    wrapped = [[_wrap(cell, room) for cell, room in zip(row, widths, strict=True)] for row in cells]
    return tabulate(wrapped, heads, tablefmt="simple", disable_numparse=True)


def _fit(natural: list[int], words: list[int], available: int) -> list[int]:
    """Widths that fit: the widest columns give way first; words are broken (down to MIN_COLUMN) at last."""
    widths = list(natural)
    for floors in (words, [MIN_COLUMN] * len(widths)):
        while sum(widths) > available:
            loose = [column for column, floor in enumerate(floors) if widths[column] > floor]
            if not loose:
                break
            widths[max(loose, key=widths.__getitem__)] -= 1
    return widths


def _wrap(cell: str, room: int) -> str:
    lines = [textwrap.wrap(line, room, break_on_hyphens=False) or [""] for line in cell.split("\n")]
    return "\n".join(line for part in lines for line in part)


def list_methods(registry: PluginRegistry, name: str | None, width: int) -> str:
    """The methods, or one with every parameter."""
    if name is not None:
        cls = registry.distiller(name)
        facts = [
            ("version", cls.version),
            ("paper", cls.paper),
            ("needs a teacher", _yes(cls.needs_teacher)),
            ("needs an IPC", _yes(cls.needs_ipc)),
            ("default evaluator", cls.default_evaluator),
            ("from", registry.distribution_of("method", name)),
        ]
        return _model_page("method", cls, Distiller, facts, _recipes(registry), width)
    return table(
        ("name", "version", "paper", "teacher", "from"),
        (
            (
                cls.name,
                cls.version,
                cls.paper,
                _yes(cls.needs_teacher),
                registry.distribution_of("method", cls.name),
            )
            for cls in registry.distillers()
        ),
        width,
    )


def list_evaluators(registry: PluginRegistry, name: str | None, width: int) -> str:
    """The protocols, or one with every parameter."""
    if name is not None:
        cls = registry.evaluator(name)
        facts = [
            ("version", cls.version),
            ("paper", cls.paper),
            ("needs a teacher", _yes(cls.needs_teacher)),
            ("from", registry.distribution_of("evaluator", name)),
        ]
        return _model_page("evaluator", cls, Evaluator, facts, _recipes(registry), width)
    return table(
        ("name", "version", "paper", "teacher", "from"),
        (
            (
                cls.name,
                cls.version,
                cls.paper,
                _yes(cls.needs_teacher),
                registry.distribution_of("evaluator", cls.name),
            )
            for cls in registry.evaluators()
        ),
        width,
    )


def list_datasets(registry: PluginRegistry, name: str | None, width: int) -> str:
    """The data sets, or one with its facts and the `data` settings that recipes give it."""
    if name is not None:
        spec = registry.dataset(name)
        values = ((field.name, getattr(spec, field.name)) for field in dataclasses.fields(spec))
        facts = [
            (key.replace("_", " "), value_text(value))
            for key, value in values
            if value is not None and not callable(value)
        ]
        facts.append(("from", registry.distribution_of("dataset", name)))
        return _join(
            _facts(facts, width),
            _parameters("data", DataConfig, width),
            _set_by("data", "dataset", spec.name, DataConfig, _recipes(registry), width),
        )
    return table(
        ("name", "classes", "size", "about", "from"),
        (
            (
                spec.name,
                "any" if spec.classes is None else str(spec.classes),
                f"{spec.native_size} px",
                spec.about,
                registry.distribution_of("dataset", spec.name),
            )
            for spec in registry.datasets()
        ),
        width,
    )


def list_models(registry: PluginRegistry, name: str | None, width: int) -> str:
    """The networks that are known by a short name, or one of them."""
    from ddbench.config.networks import CATALOG, OTHER_NETWORKS

    rows = {network.name: network for network in CATALOG}
    if name is not None:
        if name not in rows:
            raise unknown("model", name, rows)
        network = rows[name]
        return _facts([("name", network.name), ("source", network.source), ("about", network.about)], width)
    known = table(("name", "source", "about"), ((row.name, row.source, row.about) for row in CATALOG), width)
    return _join(known, f"Also {OTHER_NETWORKS}.")


def list_recipes(registry: PluginRegistry, name: str | None, width: int) -> str:
    """The recipes, or one with every block: where it applies, what it sets, and the source of its numbers."""
    recipes = _recipes(registry)
    names = sorted({recipe.name for recipe in recipes})
    if name is None:
        same = ((each, [recipe for recipe in recipes if recipe.name == each]) for each in names)
        return table(
            ("name", "kind", "about"),
            ((each, found[0].kind, "\n".join(dict.fromkeys(recipe.about for recipe in found))) for each, found in same),
            width,
        )
    if name not in names:
        raise unknown("recipe", name, names)
    return _join(*(_recipe_page(recipe, width) for recipe in recipes if recipe.name == name))


def list_tables(registry: PluginRegistry, name: str | None, width: int) -> str:
    """The tables, or one of them."""
    if name is not None:
        spec = registry.table(name)
        owner = registry.distribution_of("table", name)
        return _facts(
            [("name", spec.name), ("about", spec.about), ("stands beside", spec.reference), ("from", owner)],
            width,
        )
    return table(
        ("name", "about", "stands beside", "from"),
        (
            (spec.name, spec.about, spec.reference, registry.distribution_of("table", spec.name))
            for spec in registry.tables()
        ),
        width,
    )


LISTINGS: dict[str, Callable[[PluginRegistry, str | None, int], str]] = {
    "methods": list_methods,
    "evaluators": list_evaluators,
    "datasets": list_datasets,
    "models": list_models,
    "recipes": list_recipes,
    "tables": list_tables,
}


KINDS: tuple[str, ...] = tuple(LISTINGS)


def _model_page(
    section: Literal["method", "evaluator"],
    cls: type[Distiller] | type[Evaluator],
    base: type[BaseModel],
    facts: list[tuple[str, str]],
    recipes: Sequence[Recipe],
    width: int,
) -> str:
    about = "" if cls.__doc__ == base.__doc__ else inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0]
    return _join(
        _facts([("name", cls.name), ("about", " ".join(about.split())), *facts], width),
        _parameters(section, cls, width),
        _set_by(section, section, cls.name, cls, recipes, width),
    )


def _facts(facts: Iterable[tuple[str, str]], width: int) -> str:
    rows = [(key, value) for key, value in facts if value]
    indent = max(len(key) for key, _ in rows) + 2
    return "\n".join(
        textwrap.fill(
            f"{key:<{indent}}{value}", max(width, indent + MIN_COLUMN), subsequent_indent=" " * indent,
            break_on_hyphens=False, break_long_words=False,
        )
        for key, value in rows
    )  # fmt: skip


def _parameters(section: str, model: type[BaseModel], width: int) -> str:
    rows = [(name, type_text(field), default_text(field), _meaning(field)) for name, field in parameters(model)]
    if not rows:
        return "It has no parameters."
    grid = table(("name", "type", "default", "meaning"), rows, width)
    return f"Parameters (--set {section}.NAME=VALUE):\n\n{grid}"


def _set_by(section: str, kind: str, name: str, model: type[BaseModel], recipes: Sequence[Recipe], width: int) -> str:
    """Which recipes give `name` which values, and whence; and what else a method's own blocks set."""
    rows = []
    for recipe in recipes:
        for block in recipe.blocks:
            limit = next((names for key, names in block.applies.items() if key == kind), [])
            if limit and name not in limit:
                continue
            shown = []
            for place, value in _settings(block):
                its_section, _, key = place.partition(".")
                if its_section == section and key in model.model_fields:
                    shown.append(f"{key}={value_text(value)}")
                elif its_section != section and kind == "method" and limit:
                    shown.append(f"{place}={value_text(value)}")
            if shown:
                rows.append((recipe.name, _where(block, without=kind), "\n".join(shown), block.source))
    if not rows:
        return "No recipe sets them."
    return f"Set by recipes:\n\n{table(('recipe', 'where', 'sets', 'source'), rows, width)}"


def _recipe_page(recipe: Recipe, width: int) -> str:
    head = _facts(
        [
            ("name", recipe.name),
            ("kind", recipe.kind),
            ("about", recipe.about),
            ("file", _file_text(recipe.path)),
        ],
        width,
    )
    rows = [
        (
            _where(block),
            "\n".join(f"{key}={value_text(value)}" for key, value in _settings(block)),
            block.source,
        )
        for block in recipe.blocks
    ]
    return _join(head, table(("where", "sets", "source"), rows, width))


def _settings(block: Block) -> Iterator[tuple[str, Any]]:
    for section, values in block.settings.items():
        for key, value in values.items():
            yield f"{section}.{key}", value


def _where(block: Block, without: str = "") -> str:
    limits = [f"{kind} {', '.join(names)}" for kind, names in block.applies.items() if kind != without]
    return "; ".join(limits) or "always"


def _file_text(path: Path) -> str:
    """The file inside its package: the folder it is installed in says nothing about the recipe."""
    return "/".join(path.parts[-3:])


def _recipes(registry: PluginRegistry) -> list[Recipe]:
    return list(registry.recipes())


def _join(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def parameters(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every parameter of a pydantic model; those of a nested model as `outer.inner`."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from parameters(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _meaning(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())
