"""Arguments of the functions of the package: their checks, and the request that they make. Imports no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from numbers import Integral
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ddbench.core.checks import require_type
from ddbench.core.errors import DDBenchError, unknown

if TYPE_CHECKING:
    from ddbench.pipeline.request import Request
    from ddbench.registry.registry import PluginRegistry

SEVERAL: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "method": ("methods", str),
    "dataset": ("datasets", str),
    "ipc": ("ipcs", int),
    "recipe": ("recipes", (str, os.PathLike)),
    "evaluator": ("evaluators", str),
    "student": ("students", str),
    "measure": ("measures", str),
}
"""Arguments that are one value or several: their field of a request, and the type of a value."""
_ONE: dict[str, type] = {
    **dict.fromkeys(("seed", "seeds", "repeats", "image_size"), int),
    **dict.fromkeys(("arch", "device", "precision"), str),
}
"""Arguments that are one value: its type."""


def request_of(function: str, settings: dict[str, Any] | None, **arguments: Any) -> Request:
    """Returns the request of a function's arguments.

    Args:
        function: The name of the function, for messages.
        settings: Values by `section.name`.
        arguments: Values by names in `SEVERAL` and `_ONE`.
    """
    from ddbench.pipeline.request import Request

    fields: dict[str, Any] = {"methods": (), "ipcs": ()}
    fields |= {SEVERAL[name][0]: several(function, name, arguments[name]) for name in arguments if name in SEVERAL}
    for name in arguments.keys() & _ONE.keys():
        value = plain(arguments[name])
        if value is not None or name not in ("image_size", "arch"):
            require_type(function, name, value, _ONE[name], f"a value of type {_ONE[name].__name__}")
        if name in ("seeds", "repeats") and value < 1:
            raise DDBenchError(f"{name} is {value}; pass a number of at least 1")
        fields[name] = value
    require_type(function, "settings", settings or {}, dict, "a dict, e.g. {'method.steps': 100}")
    # JSON is YAML, which the texts of --set are.
    texts = (f"{name}={json.dumps(value, default=str)}" for name, value in (settings or {}).items())
    return Request(**fields, assignments=tuple(texts))


def name_of(method: object, registry: PluginRegistry) -> object:
    """Returns the name of a method. A class that is not installed is registered."""
    if not isinstance(method, type):
        return method
    name = getattr(method, "name", None)
    if method not in registry.distillers():
        from ddbench.api.hookspecs import hookimpl

        registry.register(SimpleNamespace(ddbench_distillers=hookimpl(lambda: [method])))
        if not registry.source_of("method", str(name)).digest:
            raise DDBenchError(f"method '{name}': its code is in no file and no notebook, so edits would go unnoticed")
    return name


def space_of(pixels: str | None) -> str | None:
    """Returns the space of float images. Raises DDBenchError for an unknown one."""
    from ddbench.config.given_sets import SPACES, ZCA

    if pixels is not None and pixels not in (*SPACES, ZCA):
        raise unknown("space of pixels", str(pixels), SPACES)
    return pixels


def values_of(given: object) -> tuple[Any, ...]:
    """Returns one value or several as a tuple, and the integers of NumPy and pandas as int."""
    if isinstance(given, str | os.PathLike | type) or not isinstance(given, Iterable):
        return (plain(given),)
    return tuple(plain(value) for value in given)


def plain(value: object) -> Any:
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def several(function: str, name: str, given: object) -> tuple[Any, ...]:
    """Returns one value or several as a tuple."""
    types, values = SEVERAL[name][1], values_of(given)
    kinds = " or ".join(kind.__name__ for kind in (types if isinstance(types, tuple) else (types,)))
    for value in values:
        require_type(function, name, value, types, f"a value of type {kinds}, or a list of them")
    return values
