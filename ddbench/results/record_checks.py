"""Checks of the trees in a record: the facts about its teacher, and its configuration."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from pydantic import AfterValidator, BaseModel, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ddbench.config.schema import DataConfig, DistillConfig, RuntimeConfig, StatisticsConfig, TeacherConfig
from ddbench.core.canonical import canonical_json
from ddbench.core.text import error_text

Tree = dict[str, Any]

_SECTION_MODELS: dict[str, type[BaseModel]] = {
    "data": DataConfig,
    "teacher": TeacherConfig,
    "statistics": StatisticsConfig,
    "distill": DistillConfig,
    "runtime": RuntimeConfig,
}
SECTIONS = (*_SECTION_MODELS, "method_settings", "evaluator_settings")
"""Sections of `Record.configuration`."""


def require_values(**types: Any) -> AfterValidator:
    """Refuses a non-empty tree that lacks one of these names or holds a value of another type."""

    def check(tree: Tree) -> Tree:
        for name, type_ in types.items() if tree else ():
            if name not in tree:
                raise ValueError(f"'{name}' is missing")
            if not isinstance(tree[name], type_):
                raise ValueError(f"'{name}' is a {type(tree[name]).__name__}")
        return tree

    return AfterValidator(check)


class OtherTeacher(TypedDict):
    """What is compared of a teacher besides the configured one."""

    digest: str
    used_by: list[str]


def check_optional(**types: Any) -> AfterValidator:
    """Refuses a tree in which one of these names is present with another type."""
    adapters = {name: TypeAdapter(type_) for name, type_ in types.items()}

    def check(tree: Tree) -> Tree:
        for name in adapters.keys() & tree.keys():
            try:
                adapters[name].validate_python(tree[name])
            except ValidationError as error:
                raise ValueError(f"'{name}': {error_text(error)}") from error
        return tree

    return AfterValidator(check)


def check_sections(configuration: Tree) -> Tree:
    """Validates the core's sections. Settings that this version does not have are ignored."""
    required = {"runtime": {"device", "precision"}, "distill": {"jpeg_quality"}}
    for name, model in _SECTION_MODELS.items():
        section = configuration[name]
        if missing := required.get(name, set()) - section.keys():
            raise ValueError(f"'{name}.{min(missing)}' is missing")
        try:
            _check_section(model, canonical_json(section))
        except ValidationError as error:
            raise ValueError(f"{name}.{error_text(error)}") from error
    return configuration


@lru_cache(maxsize=1024)
def _check_section(model: type[BaseModel], text: str) -> None:
    """Validates a section once for all records that share it."""
    model(**{key: value for key, value in json.loads(text).items() if key in model.model_fields})
