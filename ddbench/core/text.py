"""Formats values, types and validation errors as text for the user."""

from __future__ import annotations

import os
import reprlib
import unicodedata
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo


def type_text(field: FieldInfo) -> str:
    """Returns the type and the bounds of a model's field.

    Args:
        field: The field.

    Returns:
        Text such as `int, >= 1` or `squared | norm`.

    Example:
        >>> from pydantic import Field
        >>> class Settings(BaseModel):
        ...     steps: int = Field(default=10, ge=1)
        >>> type_text(Settings.model_fields["steps"])
        'int, >= 1'
    """
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
    if origin is Annotated:
        return _annotation(arguments[0])
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
    """Returns the default of a model's field as text, or `required` if it has none.

    Args:
        field: The field.

    Returns:
        The text, as `value_text` formats it.
    """
    if field.is_required():
        return "required"
    return value_text(field.get_default(call_default_factory=True, validated_data={}))


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun.

    Args:
        number: The number.
        noun: The noun, in the singular.

    Example:
        >>> counted(1, "set"), counted(3, "set")
        ('1 set', '3 sets')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def bytes_text(count: float) -> str:
    """Returns a number of bytes as text.

    >>> bytes_text(2_340_000), bytes_text(1_260_000_000), bytes_text(310)
    ('2.3 MB', '1.3 GB', '0.3 kB')
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def value_text(value: Any) -> str:
    """Formats a value as `--set` and recipes accept it: YAML in flow style.

    Args:
        value: A string, number, boolean, None, path or model, or a collection of them.

    Returns:
        One line.

    Example:
        >>> value_text((0.5, 0.9)), value_text(None), value_text({"arch": "resnet18"})
        ('[0.5, 0.9]', 'null', '{arch: resnet18}')
    """
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


def path_text(path: str | Path) -> str:
    """Returns a path as text that can be written as UTF-8. Bytes of a file name that are not UTF-8 become escapes.

    Example:
        >>> path_text(os.fsdecode(b"train/caf\\xe9"))
        'train/caf\\\\xe9'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def composed(name: str) -> str:
    """Returns a name with composed accents (Unicode form NFC). Some systems store the accents of file names decomposed.

    Example:
        >>> composed("cafe\\u0301") == "caf\\u00e9"
        True
    """
    return unicodedata.normalize("NFC", name)


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


def error_text(error: Exception) -> str:
    """Formats the first problem of a pydantic validation error as one line.

    Args:
        error: The validation error, or any other exception.

    Returns:
        Text such as `settings.steps: Input should be greater than or equal to 1 (got 0)`. For another exception: its
        message.

    Example:
        >>> try:
        ...     raise ValueError("a message")
        ... except ValueError as error:
        ...     error_text(error)
        'a message'
    """
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    location = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "unknown name"
    elif first["type"] in ("tuple_type", "list_type"):
        message = "a list such as [1, 2] is needed"
    value = "" if isinstance(first["input"], dict | BaseModel) else f" (got {_short.repr(first['input'])})"
    return f"{location}: {message}{value}" if location else message
