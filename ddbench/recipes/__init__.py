"""Recipes: named hyper-parameters as data, each block with the source of its numbers. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from ddbench.errors import DDBenchError

SECTIONS = ("data", "teacher", "statistics", "distill", "method", "evaluator", "runtime")
Section = Literal["data", "teacher", "statistics", "distill", "method", "evaluator", "runtime"]
Filter = Literal["dataset", "method", "evaluator", "budget"]


class Block(BaseModel, frozen=True, extra="forbid"):
    """Settings from one source. `applies` limits them, e.g. `{dataset: [imagenette]}`; empty means always."""

    source: str = Field(min_length=1)
    applies: dict[Filter, list[str]] = Field(default_factory=dict)
    settings: dict[Section, dict[str, Any]]

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


def load(paths: Iterable[Path]) -> list[Recipe]:
    """Reads recipe files. Raises DDBenchError naming the file and the place for anything that is not a recipe."""
    return [load_file(path) for path in paths]


def load_file(path: Path) -> Recipe:
    """Reads one recipe file; see `load`."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(tree, dict):
            raise DDBenchError(f"recipe {path} is not a mapping with name, kind, about, blocks")
        return Recipe(**{**tree, "path": path})
    except FileNotFoundError as error:
        raise DDBenchError(f"no recipe file {path}") from error
    except OSError as error:
        raise DDBenchError(f"recipe {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DDBenchError(f"recipe {path} is not plain YAML: {' '.join(str(error).split())}") from error
    except (ValidationError, TypeError) as error:
        raise DDBenchError(f"recipe {path}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """One line for the first thing that a validation found wrong: `a.b: what (got ...)`."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        what = "unknown name"
    got = "" if isinstance(first["input"], dict | BaseModel) else f" (got {first['input']!r})"
    return f"{place}: {what}{got}" if place else what


def builtin_paths() -> list[Path]:
    """The recipe files that ship with ddbench."""
    return sorted(Path(__file__).parent.glob("*.yaml"))
