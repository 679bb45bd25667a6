"""Recipes: named hyper-parameters as data, each block with the source of its numbers. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from ddbench.core.errors import DDBenchError
from ddbench.core.text import error_text

SECTIONS = ("data", "teacher", "statistics", "distill", "method", "evaluator", "runtime")


SectionName = Literal["data", "teacher", "statistics", "distill", "method", "evaluator", "runtime"]


FilterName = Literal["dataset", "method", "evaluator", "budget"]


MAX_BYTES = 2**20


MAX_DEPTH = 20


class Block(BaseModel, frozen=True, extra="forbid"):
    """Settings from one source. `applies` limits them, e.g. `{dataset: [imagenette]}`; empty means always."""

    source: str = Field(min_length=1)
    applies: dict[FilterName, list[str]] = Field(default_factory=dict)
    settings: dict[SectionName, dict[str, Any]]

    def matches(self, context: dict[str, list[str]]) -> bool:
        """Whether every filter names one of the context's values, e.g. `{"dataset": ["imagenette"], ...}`."""
        return all(set(names) & set(context.get(key, [])) for key, names in self.applies.items())


class Recipe(BaseModel, frozen=True, extra="forbid"):
    """One YAML file. A budget says how much is spent, a numerics which formulas; equal names are applied together."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    kind: Literal["budget", "numerics"]
    about: str
    blocks: list[Block]
    path: Path = Field(exclude=True)


class _Loader(yaml.SafeLoader):
    """YAML without aliases: with them a few lines may stand for a tree of billions of values."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("an alias (*): write the values out")
        return super().compose_node(parent, index)


def parse_plain_yaml(text: str) -> Any:
    """The value of a YAML text: text, numbers, truth values, null, and lists and mappings of them.

    Raises ValueError for anything else: tags, aliases, dates, whole numbers of more than 64 bits, nesting deeper than
    MAX_DEPTH, and text that is no YAML.
    """
    try:
        value = yaml.load(text, _Loader)
        require_plain(value)
    except Exception as error:  # besides its own errors PyYAML raises whatever a number or date without sense gives
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    return value


def require_plain(value: object, depth: int = MAX_DEPTH) -> None:
    """Raises ValueError where a tree is not of text, numbers, truth values and null, or larger than `plain` allows."""
    if isinstance(value, dict | list):
        if not depth:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        for part in (*value, *value.values()) if isinstance(value, dict) else value:
            require_plain(part, depth - 1)
    elif isinstance(value, int) and value.bit_length() > 63:
        raise ValueError("a whole number of more than 64 bits")
    elif isinstance(value, str) and any("\ud800" <= letter <= "\udbff" for letter in value):
        # Its other half would make another text of it in a record. (Those of paths that are not UTF-8 are the others.)
        raise ValueError("half a letter: what JSON writes as two escapes is one in YAML")
    elif not isinstance(value, str | int | float | None):
        raise ValueError(f"a {type(value).__name__}: text that is to stay text needs quotes")


def load_file(path: Path) -> Recipe:
    """Reads a recipe file. Raises DDBenchError naming the file and the place for anything that is not a recipe."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise DDBenchError(f"no recipe file {path}") from error
    except (OSError, ValueError) as error:
        raise DDBenchError(f"recipe {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        tree = parse_plain_yaml(content.decode("utf-8"))
    except ValueError as error:
        raise DDBenchError(f"recipe {path} is not plain YAML: {error}") from error
    if not isinstance(tree, dict):
        raise DDBenchError(f"recipe {path} is not a mapping with name, kind, about, blocks")
    try:
        return Recipe(**{**tree, "path": path})
    except (ValidationError, TypeError) as error:
        raise DDBenchError(f"recipe {path}: {error_text(error)}") from error


def builtin_paths() -> list[Path]:
    """The recipe files that ship with ddbench."""
    return sorted(Path(__file__).parent.glob("*.yaml"))
