"""Recipes: named hyper-parameters in YAML files. Every block states the source of its numbers. Imports no torch."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError, field_validator

from ddbench.core.errors import DDBenchError
from ddbench.core.files import refuse_url
from ddbench.core.text import error_text

SectionName = Literal["data", "teacher", "statistics", "distill", "method", "evaluator", "runtime"]
SECTIONS: tuple[SectionName, ...] = get_args(SectionName)
"""The sections of the configuration that a recipe can set."""
FilterName = Literal["dataset", "method", "ipc", "evaluator", "budget"]
MAX_BYTES = 2**20
"""Limit on the size of a recipe file."""
MAX_DEPTH = 20
"""Limit on the nesting of a YAML value."""


def _text(value: object) -> object:
    return str(value) if type(value) is int else value


class Block(BaseModel, frozen=True, extra="forbid"):
    """Settings from one source.

    Attributes:
        source: Where the numbers come from.
        applies: The runs that the block applies to, e.g. `{dataset: [imagenette], ipc: [1]}`. Empty: all runs.
        settings: Values by section and name.
    """

    source: str = Field(min_length=1)
    applies: dict[FilterName, list[Annotated[str, BeforeValidator(_text)]]] = Field(default_factory=dict)
    settings: dict[SectionName, dict[str, Any]]

    @field_validator("applies")
    @classmethod
    def _require_ipc(cls, applies: dict[FilterName, list[str]]) -> dict[FilterName, list[str]]:
        for value in applies.get("ipc", []):
            if not re.fullmatch(r"[1-9][0-9]*", value):
                raise ValueError(f"ipc {value!r} is not a number of images per class, e.g. 10")
        return applies

    def matches(self, context: dict[str, list[str]]) -> bool:
        """Tests whether the block applies to a run.

        Args:
            context: Names of the run by filter, e.g. `{"dataset": ["imagenette"], "method": ["wmdd"]}`.

        Returns:
            Whether every filter of the block contains one of the names.

        Example:
            >>> block = Block(source="a paper", applies={"dataset": ["digits"]}, settings={"teacher": {"epochs": 3}})
            >>> block.matches({"dataset": ["digits"], "method": ["random"]})
            True
        """
        return all(set(names) & set(context.get(key, [])) for key, names in self.applies.items())


def _require_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise ValueError("use lower-case letters, digits and hyphens, and begin with a letter")
    return name


class Recipe(BaseModel, frozen=True, extra="forbid"):
    """The content of one recipe file.

    Attributes:
        name: Name on the command line. Recipes of the same name are applied together.
        kind: `budget` for sizes, epochs and steps; `numerics` for formulas, solvers and starting points.
        about: One line about the recipe.
        blocks: Settings. Later blocks override earlier ones.
        path: The file.
    """

    name: Annotated[str, AfterValidator(_require_name)]
    kind: Literal["budget", "numerics"]
    about: str
    blocks: list[Block]
    path: Path = Field(exclude=True)


class _Loader(yaml.SafeLoader):
    """A loader that rejects aliases: with them, a few lines of YAML can expand to billions of values."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("an alias (*) is not allowed: write the values out")
        return super().compose_node(parent, index)


def parse_plain_yaml(text: str) -> Any:
    """Parses YAML that consists of strings, numbers, booleans, null, lists and mappings.

    Args:
        text: The YAML text.

    Returns:
        The value.

    Raises:
        ValueError: The text is not YAML, or holds a tag, an alias, a date, an integer of more than 64 bits or values
            nested deeper than `MAX_DEPTH`.

    Example:
        >>> parse_plain_yaml("{epochs: 3, betas: [0.5, 0.9]}")
        {'epochs': 3, 'betas': [0.5, 0.9]}
    """
    try:
        value = yaml.load(text, _Loader)
        require_plain(value)
    except Exception as error:  # PyYAML raises various exceptions for invalid numbers and dates
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    return value


def require_plain(value: object, depth: int = MAX_DEPTH) -> None:
    """Checks that a value consists of strings, numbers, booleans, null, lists and mappings.

    Args:
        value: The value.
        depth: Number of nested lists and mappings that are allowed.

    Raises:
        ValueError: It holds anything else, an integer of more than 64 bits, or is nested too deeply.
    """
    if isinstance(value, dict | list):
        if not depth:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        for part in (*value, *value.values()) if isinstance(value, dict) else value:
            # Most parts are numbers and ASCII text. Testing them here makes the reading of many records faster.
            if type(part) is not float and not (type(part) is str and part.isascii()):
                require_plain(part, depth - 1)
    elif isinstance(value, int) and value.bit_length() > 63:
        raise ValueError("an integer of more than 64 bits")
    elif isinstance(value, str) and not value.isascii() and any("\ud800" <= letter <= "\udbff" for letter in value):
        # JSON reads a high surrogate followed by a low one as one other character, so a record would not keep the text.
        # (Low surrogates alone are allowed: they represent bytes of paths that are not UTF-8.)
        raise ValueError("a high surrogate: write the character itself, YAML has no surrogate pairs")
    elif not isinstance(value, str | int | float | None):
        raise ValueError(f"a {type(value).__name__} is not allowed: put text in quotes")


def load_file(path: Path) -> Recipe:
    """Reads a recipe file.

    Args:
        path: The YAML file.

    Returns:
        The recipe.

    Raises:
        DDBenchError: The file cannot be read or is not a valid recipe. The message names the file and the location.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        refuse_url(path, "recipe")
        raise DDBenchError(f"no recipe file {path}") from error
    except (OSError, ValueError) as error:
        raise DDBenchError(f"recipe {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > MAX_BYTES:
        raise DDBenchError(f"recipe {path} is larger than {MAX_BYTES} bytes")
    return _recipe(path, content)


@functools.lru_cache  # every registry of a process reads the same files
def _recipe(path: Path, content: bytes) -> Recipe:
    try:
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
    """Returns the paths of the recipe files that ship with ddbench."""
    return sorted(Path(__file__).parent.glob("*.yaml"))
