"""Plugins in single files: `ddbench --plugin FILE`, or the environment variable DDBENCH_PLUGINS. Imports no torch."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from types import CodeType, ModuleType

from ddbench.api.hookspecs import PROJECT
from ddbench.core.errors import DDBenchError, exception_line
from ddbench.registry.attribution import STOP_REQUESTS, place_of

VARIABLE = "DDBENCH_PLUGINS"
"""The environment variable with the files, joined as in PATH. Worker processes inherit it."""
MARKER = f"{PROJECT}_impl"
"""The attribute that pluggy adds to functions with @hookimpl."""


class _SourceLoader(SourceFileLoader):
    """Compiles the file itself: the cached bytecode of a file that changes within a second is that of before."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def plugin_files() -> list[Path]:
    """Returns the files of the environment variable, as absolute paths."""
    return [Path(name).absolute() for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]


def add_plugin_files(files: Iterable[Path]) -> list[Path]:
    """Adds files to the environment variable: every later registry of this process and of its workers loads them.

    Returns:
        The files that the variable did not have, as absolute paths.
    """
    before = plugin_files()
    added = [path for path in dict.fromkeys(file.absolute() for file in files) if path not in before]
    if added:
        os.environ[VARIABLE] = os.pathsep.join(map(str, [*before, *added]))
    return added


def load_plugin_file(path: Path, register: Callable[[ModuleType, str], object]) -> None:
    """Imports the module of a plugin file and registers it. A file is imported once in a process.

    Args:
        path: The file.
        register: Called with the module and the name of the file, which stands for the distribution in messages.

    Raises:
        DDBenchError: There is no such file, it is no Python file, it has no hook, its code or its hooks raise, or
            another plugin file has the same name.
    """
    name = f"ddbench_plugin_file_{path.stem}"
    module = sys.modules.get(name)
    if module is not None and module.__file__ != str(path):
        raise DDBenchError(f"plugin {path}: the plugin {module.__file__} has the same name; rename one of them")
    if not path.is_file():
        raise DDBenchError(f"plugin {path}: there is no such file")
    if path.suffix != ".py":
        raise DDBenchError(f"plugin {path}: this is no Python file (FILE.py)")
    loader = _SourceLoader(name, str(path))
    spec = ModuleSpec(name, loader, origin=str(path))
    spec.has_location = True
    try:
        with contextlib.redirect_stdout(sys.stderr):
            if module is None:
                module = sys.modules[name] = module_from_spec(spec)
                loader.exec_module(module)
            if not any(hasattr(value, MARKER) for value in vars(module).values()):
                raise DDBenchError("none of its functions has the decorator @hookimpl")
            register(module, path.name)
    except BaseException as error:
        sys.modules.pop(name, None)
        if isinstance(error, STOP_REQUESTS):
            raise
        known = isinstance(error, DDBenchError)
        reason = str(error) if known else f"{exception_line(error)} ({place_of(error)})"
        raise DDBenchError(f"plugin {path}: {reason}") from error
