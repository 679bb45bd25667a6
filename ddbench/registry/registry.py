"""The plugin registry: loads the installed plugins and looks up their items. Imports no torch."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.api.dataset import DatasetSpec
from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator
from ddbench.api.hookspecs import PROJECT
from ddbench.api.measure import Measure
from ddbench.api.stage import Stage
from ddbench.api.table import TableSpec
from ddbench.api.tracker import Tracker
from ddbench.config.given_sets import METHOD_PREFIX
from ddbench.config.recipes import Recipe, load_file
from ddbench.core.errors import DDBenchError, exception_line
from ddbench.distillation.given import given_method
from ddbench.registry import attribution
from ddbench.registry.attribution import STOP_REQUESTS, print_warning
from ddbench.registry.collection import Collection, Kind
from ddbench.registry.contents import PluginContents, read_contents
from ddbench.registry.hooks import CORE, Hooks
from ddbench.registry.loading import in_load_order, installed_points, load, owner_of
from ddbench.registry.observers import Observers
from ddbench.registry.plugin_files import load_plugin_file, plugin_files
from ddbench.registry.source import Source, source_of

if TYPE_CHECKING:
    import click

    from ddbench.core.events import Event

__all__ = ["GROUP", "Kind", "PluginRegistry"]

GROUP = PROJECT
"""The group of entry points that declare plugins."""


class PluginRegistry:
    """All items of the core, of the installed plugins and of the plugin files (`ddbench.registry.plugin_files`).

    An installed plugin that cannot be loaded causes one warning on stderr, which names its distribution. The other
    plugins work.

    Args:
        entry_points: The entry points to load instead of the installed ones and the plugin files, e.g. `()` for an
            empty registry.

    Attributes:
        failures: The warnings about installed plugins that cannot be loaded.

    Raises:
        DDBenchError: If two plugins register items of the same kind and name, or a plugin file cannot be loaded.
    """

    def __init__(self, entry_points: Iterable[metadata.EntryPoint] | None = None) -> None:
        self.failures: list[str] = []
        self._hooks = Hooks()
        self._observers = Observers(self._hooks)
        self._distillers: Collection[type[Distiller]] = Collection("method")
        self._evaluators: Collection[type[Evaluator]] = Collection("evaluator")
        self._measures: Collection[type[Measure]] = Collection("measure")
        self._datasets: Collection[DatasetSpec] = Collection("dataset")
        self._tables: Collection[TableSpec] = Collection("table")
        self._stages: Collection[type[Stage[Any]]] = Collection("stage")
        self._trackers: Collection[type[Tracker]] = Collection("tracker")
        collections = (
            *(self._distillers, self._evaluators, self._measures),
            *(self._datasets, self._tables, self._stages, self._trackers),
        )
        self._collections: dict[Kind, Collection[Any]] = {collection.kind: collection for collection in collections}
        self._recipe_files: dict[Path, str] = {}
        self._recipes: dict[Path, Recipe] = {}
        self._num_registered = 0
        for point in in_load_order(installed_points(GROUP) if entry_points is None else entry_points):
            owner = owner_of(point)
            name = f"{owner}:{point.name}"
            contents = load(point, functools.partial(self._inspect, name=name, owner=owner), self.failures.append)
            if contents is not None:
                self._accept(contents, owner)
        for path in plugin_files() if entry_points is None else ():
            load_plugin_file(path, self.register)

    def register(self, plugin: object, distribution: str = "this process") -> None:
        """Registers a plugin in this process. If it raises, nothing of the plugin stays registered.

        Args:
            plugin: A module or an object with hook implementations.
            distribution: The name of the plugin's distribution, for messages.

        Raises:
            DDBenchError: If a name is registered already.
            pluggy.PluginValidationError: If the plugin implements an unknown hook.
            TypeError: If a hook returns an object of the wrong type.
            ValueError: If a name is invalid or a recipe does not exist.
            Exception: Any exception of the plugin's hooks.
        """
        name = f"{distribution}#{self._num_registered}"
        contents = self._inspect(plugin, name, distribution)
        try:
            self._accept(contents, distribution)
        except DDBenchError:
            self._hooks.remove(name)
            raise
        self._num_registered += 1

    def distiller(self, name: str) -> type[Distiller]:
        """Returns the method class called `name` or `given:NAME@DIGEST`. Raises DDBenchError for an unknown name."""
        return given_method(name) if name.startswith(METHOD_PREFIX) else self._distillers.find(name)

    def evaluator(self, name: str) -> type[Evaluator]:
        """Returns the evaluator class called `name`. Raises DDBenchError for an unknown name."""
        return self._evaluators.find(name)

    def measure(self, name: str) -> type[Measure]:
        """Returns the measure class called `name`. Raises DDBenchError for an unknown name."""
        return self._measures.find(name)

    def dataset(self, name: str) -> DatasetSpec:
        """Returns the dataset called `name` or `imagefolder:PATH`. Raises DDBenchError for an unknown name."""
        from ddbench.data.registry import resolve_dataset

        return resolve_dataset(name, self.datasets())

    def table(self, name: str) -> TableSpec:
        """Returns the table called `name`. Raises DDBenchError for an unknown name."""
        return self._tables.find(name)

    def stage(self, name: str) -> type[Stage[Any]]:
        """Returns the stage class called `name`. Raises DDBenchError for an unknown name."""
        return self._stages.find(name)

    def tracker(self, name: str) -> type[Tracker]:
        """Returns the tracker class called `name`. Raises DDBenchError for an unknown name."""
        return self._trackers.find(name)

    def distillers(self) -> tuple[type[Distiller], ...]:
        """Returns every registered method, in alphabetical order."""
        return self._distillers.all()

    def evaluators(self) -> tuple[type[Evaluator], ...]:
        """Returns every registered evaluator, in alphabetical order."""
        return self._evaluators.all()

    def measures(self) -> tuple[type[Measure], ...]:
        """Returns every registered measure, in alphabetical order."""
        return self._measures.all()

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """Returns every registered dataset, in alphabetical order."""
        return self._datasets.all()

    def tables(self) -> tuple[TableSpec, ...]:
        """Returns every registered table, in alphabetical order."""
        return self._tables.all()

    def stages(self) -> tuple[type[Stage[Any]], ...]:
        """Returns every registered stage, in alphabetical order."""
        return self._stages.all()

    def names(self) -> list[tuple[Kind, str]]:
        """Returns kind and name of every registered item."""
        return [(kind, name) for kind, collection in self._collections.items() for name in sorted(collection.items)]

    def recipe_files(self) -> tuple[Path, ...]:
        """Returns the recipe files of the plugins: those of the core first, then by distribution."""
        return tuple(self._recipe_files)

    def recipes(self) -> tuple[Recipe, ...]:
        """Returns the recipes of `recipe_files`. Each file is read once.

        Raises:
            DDBenchError: If a file is not a valid recipe. Skipping the file would run the recipe of this name without
                the settings in the file.
        """
        for path, owner in self._recipe_files.items():
            if path not in self._recipes:
                try:
                    self._recipes[path] = load_file(path)
                except DDBenchError as error:
                    raise DDBenchError(f"{error} ({owner} ships it: repair or uninstall that package)") from error
        return tuple(self._recipes[path] for path in self._recipe_files)

    def distribution_of(self, kind: Kind, name: str) -> str:
        """Returns the distribution that provides an item, e.g. `ddbench-wmdd`.

        A dataset `imagefolder:PATH` and a method `given:NAME@DIGEST`, which no plugin lists, belong to the core.

        Args:
            kind: The kind of the item.
            name: The name of the item.

        Raises:
            DDBenchError: If there is no such item.
        """
        collection = self._collections[kind]
        if kind == "dataset" and name not in collection.owners:
            self.dataset(name)
            return CORE
        if kind == "method" and name.startswith(METHOD_PREFIX):
            return CORE
        collection.find(name)
        return collection.owners[name]

    def source_of(self, kind: Kind, name: str) -> Source:
        """Returns the distribution of a method, protocol, measure or stage, and a digest of its code.

        Args:
            kind: The kind of the item.
            name: The name of the item.
        """
        item = self.distiller(name) if kind == "method" else self._collections[kind].find(name)
        return source_of(item, self.distribution_of(kind, name))

    def describe(self, kind: Kind, name: str) -> str:
        """Returns the description of an item for messages, e.g. `method 'blur' of ddbench-blur`.

        The distribution is left out if the item is not registered.
        """
        try:
            return f"{kind} '{name}' of {self.distribution_of(kind, name)}"
        except DDBenchError:
            return f"{kind} '{name}'"

    def attribute_errors(self, kind: Kind, name: str) -> contextlib.AbstractContextManager[None]:
        """Returns a context manager that converts exceptions of a plugin's code to a PluginError that names it.

        See `ddbench.registry.attribution.attribute_errors`.

        Args:
            kind: The kind of the item whose code runs in the block.
            name: The name of the item.
        """
        return attribution.attribute_errors(lambda: self.describe(kind, name))

    def keep_tracebacks(self, write: Callable[[str, BaseException], str]) -> None:
        """Sets how the traceback of an observer is stored.

        Args:
            write: Called with a name for the file and the exception. Returns text for the message.
        """
        self._observers.keep_traceback = write

    def emit(self, event: Event) -> None:
        """Calls all implementations of `ddbench_event`. After an exception, an implementation is not called again."""
        self._observers.notify("ddbench_event", event)

    def emit_record(self, record: object) -> None:
        """Calls all implementations of `ddbench_record`. After an exception, an implementation is not called again.

        Args:
            record: A finished `ddbench.results.records.Record`.
        """
        self._observers.notify("ddbench_record", record)

    def add_commands(self, cli: click.Group) -> None:
        """Adds the click commands of every plugin. A plugin that raises causes a warning on stderr.

        Args:
            cli: The group to which the commands are added. A plugin cannot replace a command of `cli`.
        """
        for implementation in self._hooks.implementations("ddbench_commands"):
            owner, commands = implementation.owner, dict(cli.commands)
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    implementation(cli)
            except STOP_REQUESTS:
                raise
            except BaseException as error:
                where = attribution.place_of(error)
                print_warning(f"plugin of {owner} could not add its commands: {exception_line(error)} ({where})")
            replaced = [name for name, command in commands.items() if cli.commands.get(name) is not command]
            if replaced:
                cli.commands.update(commands)
                print_warning(f"plugin of {owner} may not replace the command {', '.join(replaced)}")

    def _inspect(self, plugin: object, name: str, owner: str) -> PluginContents:
        """Adds the hooks of a plugin and reads its items. Removes the hooks again if this raises an exception."""
        try:
            self._hooks.add(plugin, name, owner)
            return read_contents(self._hooks, name)
        except BaseException:
            self._hooks.remove(name)
            raise

    def _accept(self, contents: PluginContents, owner: str) -> None:
        for kind, items in contents.items.items():
            self._collections[kind].check_unique(items, owner)
        for kind, items in contents.items.items():
            self._collections[kind].add(items, owner)
        self._recipe_files.update(dict.fromkeys(contents.recipe_files, owner))
