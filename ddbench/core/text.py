"""Values, types and validation errors as text that a person can read and type."""

from __future__ import annotations

import reprlib
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo


def type_text(field: FieldInfo) -> str:
    """A parameter's type and bounds as a person writes them, e.g. `int, >= 1` or `squared | norm`."""
    bounds = [
        f"{sign} {value_text(getattr(limit, name))}"
        for limit in field.metadata
        for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
        if getattr(limit, name, None) is not None
    ]
    return ", ".join([_annotation(field.annotation), *bounds])


def _annotation(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (None, NoneType):
        return "null"
    if origin is Literal:
        return " | ".join(value_text(value) for value in arguments)
    if origin in (Union, UnionType):
        return " | ".join(_annotation(argument) for argument in arguments)
    if origin in (tuple, list, frozenset, set):
        if Ellipsis in arguments or origin is not tuple:
            return f"[{_annotation(arguments[0])}, ...]"
        return f"[{', '.join(_annotation(argument) for argument in arguments)}]"
    if isinstance(annotation, type):
        return {"str": "text", "Path": "path"}.get(annotation.__name__, annotation.__name__)
    return str(annotation)


def default_text(field: FieldInfo) -> str:
    """A parameter's default, or `required`."""
    if field.is_required():
        return "required"
    return value_text(field.get_default(call_default_factory=True, validated_data={}))


def value_text(value: Any) -> str:
    """A value as `--set` and a recipe take it (YAML flow style): `null`, `true`, `0.001`, `[0.5, 0.9]`."""
    if isinstance(value, str | Path):
        return str(value)
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, tuple | set | frozenset):
        value = list(value)
    if isinstance(value, float):
        return repr(value)
    dumped = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return dumped.removesuffix("\n").removesuffix("\n...")


def first_line(error: Exception) -> str:
    """One line for the first thing that a validation found wrong: `a.b: what (got ...)`."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        what = "unknown name"
    got = "" if isinstance(first["input"], dict | BaseModel) else f" (got {_SHORT.repr(first['input'])})"
    return f"{place}: {what}{got}" if place else what


_SHORT = reprlib.Repr()


_SHORT.maxstring = _SHORT.maxother = 80
