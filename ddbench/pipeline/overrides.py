"""Applies options and `--set` to the settings of recipes, and validates the result. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ddbench.config import recipes
from ddbench.config.recipes import SECTIONS
from ddbench.config.schema import DataConfig, replace_paths
from ddbench.core.errors import DDBenchError, did_you_mean
from ddbench.core.files import expand_user
from ddbench.core.text import error_text
from ddbench.evaluators import length
from ddbench.registry.collection import known_packages, unknown_item

Model = TypeVar("Model", bound=BaseModel)
Settings = dict[str, dict[str, Any]]
"""Values by section and name."""


def set_image_size(settings: Settings, image_size: int) -> None:
    """Sets the image size and scales the stored size in proportion."""
    data = settings["data"]
    if image_size != data.get("image_size"):
        config = validated(DataConfig, "data", settings)
        data["image_size"] = image_size
        data["stored_size"] = round(Fraction(image_size * config.stored_size, config.image_size))


@dataclass(frozen=True)
class SectionAlias:
    """The alternative names of a section in `--set`: `wmdd.steps` for `method.steps`, `pgd.steps` of a measure.

    Attributes:
        section: The section.
        known: The names of all registered methods (or protocols, or measures).
        in_run: Those of them in the grid.
        in_cell: That of this cell.
    """

    section: str
    known: frozenset[str]
    in_run: frozenset[str]
    in_cell: str


def apply_assignments(
    settings: Settings, assignments: Iterable[str], aliases: Sequence[SectionAlias]
) -> tuple[str, ...]:
    """Applies the `--set` texts that concern a cell.

    Args:
        settings: The settings of the cell; they are changed in place.
        assignments: Texts such as `teacher.epochs=20` or `wmdd.steps=500`.
        aliases: The alternative names of sections.

    Returns:
        The names of the changed settings, as `section.name`.

    Raises:
        DDBenchError: A text does not have this form, or its section is unknown.
    """
    changed = []
    for text in assignments:
        path, equals, value = text.partition("=")
        section, dot, name = path.strip().partition(".")
        if not (equals and dot and name):
            raise DDBenchError(f"--set {text}: write it as section.name=value, e.g. --set teacher.epochs=20")
        resolved = _resolve_section(text, section, aliases)
        if resolved is None:
            continue
        if not value.strip():
            raise DDBenchError(f"--set {text}: there is no value (for none, write null)")
        try:
            parsed = recipes.parse_plain_yaml(value)
        except ValueError as error:
            if any("\udc80" <= letter <= "\udcff" for letter in value):  # bytes of the command line
                raise DDBenchError(f"--set {text}: '{value}' is not UTF-8; rename the file") from error
            raise DDBenchError(f"--set {text}: '{value}' is not a plain value") from error
        settings[resolved][name.strip()] = parsed
        changed.append(f"{resolved}.{name.strip()}")
    return tuple(changed)


def replace_length(settings: Settings, changed: Iterable[str]) -> None:
    """Removes the recipes' epochs of a student if `--set` gives its steps, and the steps if it gives the epochs.

    Args:
        settings: The settings of the cell; they are changed in place.
        changed: The names of the settings given by `--set`.
    """
    values = settings["evaluator"]
    given = {name for name in length.SETTINGS if f"evaluator.{name}" in changed and values[name] is not None}
    if len(given) == 1:
        for name in {*length.SETTINGS} - given:
            values.pop(name, None)


def _resolve_section(text: str, section: str, aliases: Sequence[SectionAlias]) -> str | None:
    """Returns the section with this name; None if the name is a method or protocol of another cell."""
    if section in SECTIONS:
        return section
    known = [alias for alias in aliases if section in alias.known]
    # A method and a protocol may have the same name (dsa). The name refers to the one that the user requests.
    used = [alias for alias in known if section in alias.in_run]
    if len(used) > 1:
        raise DDBenchError(f"--set {text}: '{section}' is a method and an evaluator here: write method. or evaluator.")
    if known and not used:
        raise DDBenchError(f"--set {text}: this run has no --{known[0].section} {section}")
    if not used:
        for alias in aliases:
            if (alias.section, section) in known_packages():
                raise DDBenchError(f"--set {text}: {unknown_item(alias.section, section, ())}")
        names = {*SECTIONS, *(name for alias in aliases for name in alias.in_run)}
        raise DDBenchError(f"--set {text}: unknown section '{section}'{did_you_mean(section, names)}")
    return used[0].section if section == used[0].in_cell else None


def validated(model: type[Model], section: str, settings: Mapping[str, Mapping[str, Any]], owner: str = "") -> Model:
    """Returns the validated settings of a section. `~` at the beginning of a path is replaced by the home directory.

    Args:
        model: The pydantic model of the section.
        section: The name of the section.
        settings: All settings.
        owner: The name of the method or protocol, for messages.

    Raises:
        DDBenchError: A name is unknown, or a value is impossible.
    """
    values, of_owner = settings[section], f" ({owner})" if owner else ""
    for name in values:
        if name not in model.model_fields:
            raise DDBenchError(f"{section}{of_owner} has no setting '{name}'{did_you_mean(name, model.model_fields)}")
        # pydantic takes a truth value for a number.
        annotation = str(model.model_fields[name].annotation)
        if isinstance(values[name], bool) and "bool" not in annotation and re.search(r"\b(int|float)\b", annotation):
            raise DDBenchError(f"{section}.{name}{of_owner}: a number is needed (got {values[name]})")
    try:
        return replace_paths(model(**values), expand_user)
    except ValidationError as error:
        name, separator, message = error_text(error).partition(": ")
        raise DDBenchError(f"{section}.{name}{of_owner}{separator}{message}".replace("..", ".")) from error
