"""Imports the plugins of entry points so that a broken plugin cannot affect the others. Imports no torch."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TypeVar
from weakref import WeakKeyDictionary

from ddbench.core.errors import exception_line
from ddbench.registry.attribution import STOP_REQUESTS, place_of, print_warning
from ddbench.registry.hooks import CORE

T = TypeVar("T")

# `Distribution.name` parses the whole metadata at each access.
_NAMES: WeakKeyDictionary[metadata.Distribution, str] = WeakKeyDictionary()


def installed_points(group: str) -> tuple[metadata.EntryPoint, ...]:
    """Returns the installed entry points of a group. They are read again if sys.path or a folder in it changes."""
    return _read_points(group, tuple(map(_state_of, sys.path)))


@functools.lru_cache(maxsize=4)
def _read_points(group: str, state: tuple[object, ...]) -> tuple[metadata.EntryPoint, ...]:
    return tuple(metadata.entry_points(group=group))


def _state_of(path: str) -> tuple[object, ...]:
    """Returns what changes if a distribution is added to a folder or removed from it."""
    try:
        status = Path(path).stat()  # an empty path is the working directory
    except (OSError, ValueError):
        return (path,)
    return path, status.st_dev, status.st_ino, status.st_mtime_ns


def in_load_order(points: Iterable[metadata.EntryPoint]) -> list[metadata.EntryPoint]:
    """Sorts entry points: those of the core first, then by distribution and name."""
    return sorted(points, key=lambda point: ((owner := owner_of(point)) != CORE, owner, point.name))


def owner_of(point: metadata.EntryPoint) -> str:
    """Returns the name of the distribution that declares an entry point."""
    if point.dist is None:
        return "an unknown distribution"
    if point.dist not in _NAMES:
        _NAMES[point.dist] = point.dist.name
    return _NAMES[point.dist]


def load(
    point: metadata.EntryPoint, inspect: Callable[[object], T], failed: Callable[[str], object] = lambda text: None
) -> T | None:
    """Imports the plugin of an entry point and inspects it.

    If the plugin raises an exception, even SystemExit, a warning on stderr names its distribution. Output to stdout is
    redirected to stderr. If the import changes global state, the state is restored and a warning is printed: the
    working directory, and once torch is imported, state of torch and NumPy (default types, threads, kernels). Random
    generators of Python, and once torch is imported those of torch and NumPy, are restored without a warning, because
    libraries also use them when they are imported.

    Args:
        point: The entry point.
        inspect: Called with the imported plugin.
        failed: Called with the text of the warning if the plugin raises.

    Returns:
        The result of `inspect`, or None if the import or `inspect` raises.
    """
    plugin = f"plugin '{point.name}' of {owner_of(point)}"
    result = None
    try:
        with contextlib.redirect_stdout(sys.stderr), _restored_state(plugin, point):
            result = inspect(point.load())
    except STOP_REQUESTS:
        raise
    except BaseException as error:
        text = f"{plugin} is left out: {exception_line(error)} ({place_of(error)})"
        print_warning(text)
        failed(text)
    return result


@contextlib.contextmanager
def _restored_state(plugin: str, point: metadata.EntryPoint) -> Iterator[None]:
    """Restores the global state after the import of a plugin: that of torch if torch is imported by then."""

    def report(changed: list[str], printed: bool) -> None:
        if changed:
            print_warning(f"{plugin} changed {', '.join(changed)} when it was imported: restored")

    with contextlib.ExitStack() as stack:

        def restore_at_exit() -> None:
            import torch

            from ddbench.nn.global_state import restore_global_state

            stack.enter_context(restore_global_state(torch.device("cpu"), report))

        if owner_of(point) != CORE:
            if "torch" in sys.modules:
                restore_at_exit()
            else:
                stack.enter_context(_restored_python_state(report))
                stack.enter_context(_after_import_of_torch(restore_at_exit))
        yield


@contextlib.contextmanager
def _restored_python_state(report: Callable[[list[str], bool], None]) -> Iterator[None]:
    """Restores what a plugin can change before torch is imported: the working directory and the module random."""
    folder, generator = _folder(), random.getstate()
    try:
        yield
    finally:
        random.setstate(generator)
        if folder is not None and _folder() != folder:
            os.chdir(folder)
            report(["the working directory"], False)


def _folder() -> Path | None:
    with contextlib.suppress(OSError):  # the working directory was removed
        return Path.cwd()
    return None


@contextlib.contextmanager
def _after_import_of_torch(callback: Callable[[], None]) -> Iterator[None]:
    """Calls `callback` once if torch is imported inside the block, directly after that import."""
    finder = _TorchFinder(callback)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.callback = None
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)


class _TorchFinder(MetaPathFinder):
    """Finds torch with the finders after this one, and calls `callback` when torch is imported."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torch" or self.callback is None:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _TorchLoader(spec.loader, self)
                return spec
        return None


class _TorchLoader(Loader):
    """Imports torch with its own loader, then calls the callback of the finder."""

    def __init__(self, loader: Loader, finder: _TorchFinder) -> None:
        self._loader, self._finder = loader, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Tools that read a module's source or resources need its own loader.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        callback, self._finder.callback = self._finder.callback, None
        if callback is not None:
            callback()
