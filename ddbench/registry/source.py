"""The source of an item of a plugin: its distribution, and a digest of its code. Imports no torch."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import linecache
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddbench.registry.hooks import CORE

DESCRIPTIONS = frozenset({"summary", "departures", "cost"})
"""Texts of a class that are only printed."""


@dataclass(frozen=True)
class Source:
    """The origin of an item's code.

    Attributes:
        distribution: The distribution that provides it.
        digest: A digest of the Python files of its package, and of the modules of its base classes in other packages.
            Comments, docstrings, `DESCRIPTIONS` and layout do not affect it. For a class of a notebook, the digest of
            the cells that define its functions. Empty for the core and for code whose text is not known.
    """

    distribution: str
    digest: str


def source_of(item: type, distribution: str) -> Source:
    """Returns the source of a class of a plugin.

    Args:
        item: The class.
        distribution: The distribution that provides it.
    """
    module = sys.modules.get(item.__module__)
    file = getattr(module, "__file__", None)
    # The core has no digest: most edits of it change no number, and tests pin the results of its versions.
    if distribution == CORE:
        return Source(distribution, "")
    if file is None:
        return Source(distribution, _digest_of_cells(item))
    package = _regular_package(item.__module__)
    folders = () if package is None else tuple(sys.modules[package].__path__)
    files = ((path, path.relative_to(folder)) for folder in folders for path in Path(folder).rglob("*.py"))
    paths = sorted(path for path, inside in files if "tests" not in inside.parts) or [Path(file)]
    return Source(distribution, _digest((*paths, *_files_of_bases(item, package or item.__module__))))


def _regular_package(module: str) -> str | None:
    """Returns the outermost package of a module that is no namespace package.

    The folders of a namespace package depend on `sys.path` and can belong to several distributions.
    """
    names = module.split(".")
    for depth in range(1, len(names) + 1):
        package = sys.modules.get(name := ".".join(names[:depth]))
        if getattr(package, "__file__", None) is not None and hasattr(package, "__path__"):
            return name
    return None


def _files_of_bases(item: type, own: str) -> list[Path]:
    """Returns the files of base classes outside of the package or module `own`, without those of the core."""
    modules = dict.fromkeys(base.__module__ for base in item.__mro__)
    skipped = {CORE, "pydantic", *sys.stdlib_module_names}
    others = (name for name in modules if not f"{name}.".startswith(f"{own}."))
    names = (name for name in others if name.partition(".")[0] not in skipped)
    files = (getattr(sys.modules.get(name), "__file__", None) for name in names)
    return [Path(file) for file in files if file is not None]


def _digest_of_cells(item: type) -> str:
    """Returns a digest of the cells of a notebook in which the functions of a class are defined."""
    functions = [function for function in vars(item).values() if inspect.isfunction(function)]
    names = dict.fromkeys(own.__code__.co_filename for own in functions if own.__module__ == item.__module__)
    cells = [code for name in names if (code := "".join(linecache.getlines(name)))]
    return hashlib.sha256("".join(map(_comparable, cells)).encode()).hexdigest()[:32] if cells else ""


def _comparable(code: str) -> str:
    """Returns code without comments and layout, or as it is if it is not plain Python, as a cell with `%time`."""
    try:
        return normalised(code)
    except (ValueError, SyntaxError):
        return code


@functools.cache
def _digest(paths: tuple[Path, ...]) -> str:
    sha = hashlib.sha256()
    for path in paths:
        try:
            code = path.read_bytes()
        except OSError:
            code = path.name.encode()
        try:
            sha.update(normalised(code).encode())
        except (ValueError, SyntaxError):
            sha.update(code)
    return sha.hexdigest()[:32]


def normalised(code: str | bytes) -> str:
    """Returns Python code without comments, docstrings, `DESCRIPTIONS` and layout, as a text that can be compared.

    The text is the same for all versions of Python. Bytes are decoded as Python decodes a source file.

    >>> normalised("x = 1  # one") == normalised("x  =  1")
    True
    >>> normalised("x = 1") == normalised("x = 2")
    False
    """
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.ClassDef):
            node.body = [line for line in node.body if not _is_description(line)] or [ast.Pass()]
        if not getattr(node, "type_params", True):
            del node.type_params  # type: ignore[attr-defined]  # Python 3.12 and later
    options: dict[str, Any] = {"show_empty": True} if sys.version_info >= (3, 13) else {}
    return ast.dump(tree, **options)


def _is_description(statement: ast.stmt) -> bool:
    """Returns whether a statement of a class assigns a literal text to one of `DESCRIPTIONS`."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str())):
            return name in DESCRIPTIONS
    return False
