"""The plugin registry: guarded loading of entry points, lookup with "did you mean". Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import pluggy

from ddbench import hookspecs
from ddbench.distiller import Distiller
from ddbench.errors import DDBenchError, unknown
from ddbench.evaluator import Evaluator
from ddbench.tables import TableSpec

if TYPE_CHECKING:
    import click

    from ddbench.data.spec import DatasetSpec
    from ddbench.events import Event

GROUP = hookspecs.PROJECT
CORE = "ddbench"

Kind = Literal["method", "evaluator", "dataset", "table"]
T = TypeVar("T")


@dataclass(frozen=True)
class _Shelf(Generic[T]):
    """The registered things of one kind, by name, and the distribution that each came from."""

    kind: Kind
    things: dict[str, T] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)

    def refuse_duplicates(self, things: Iterable[tuple[str, T]], owner: str) -> None:
        seen = dict(self.owners)
        for name, _ in things:
            if name in seen:
                raise DDBenchError(
                    f"{self.kind} '{name}' is given by both {seen[name]} and {owner}: uninstall one of them"
                )
            seen[name] = owner

    def add(self, things: Iterable[tuple[str, T]], owner: str) -> None:
        for name, thing in things:
            self.things[name] = thing
            self.owners[name] = owner

    def find(self, name: str) -> T:
        if name not in self.things:
            raise unknown(self.kind, name, self.things)
        return self.things[name]

    def all(self) -> tuple[T, ...]:
        return tuple(self.things[name] for name in sorted(self.things))


@dataclass(frozen=True)
class _Offer:
    """What one plugin's hooks returned, checked, before anything of it is registered."""

    distillers: list[tuple[str, type[Distiller]]]
    evaluators: list[tuple[str, type[Evaluator]]]
    datasets: list[tuple[str, DatasetSpec]]
    tables: list[tuple[str, TableSpec]]
    recipes: list[Path]


class PluginRegistry:
    """Everything that is installed: the core's own methods, protocols and data sets, and every plugin's.

    A plugin that cannot be loaded is one warning line on stderr naming its distribution; the others work.
    Raises DDBenchError where two plugins give the same name to two things of one kind.

    `entry_points` replaces the installed ones of group `ddbench`, e.g. `()` for an empty registry.
    """

    def __init__(self, entry_points: Iterable[metadata.EntryPoint] | None = None) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._distillers: _Shelf[type[Distiller]] = _Shelf("method")
        self._evaluators: _Shelf[type[Evaluator]] = _Shelf("evaluator")
        self._datasets: _Shelf[DatasetSpec] = _Shelf("dataset")
        self._tables: _Shelf[TableSpec] = _Shelf("table")
        self._recipes: list[Path] = []
        self._owner_of_plugin: dict[str, str] = {}
        self._silenced: set[str] = set()
        points = metadata.entry_points(group=GROUP) if entry_points is None else entry_points
        for point in sorted(points, key=_load_order):
            self._load(point)

    def register(self, plugin: object, distribution: str = "this process") -> None:
        """Registers a plugin object (a module or any object with hook implementations) in this process.

        Raises what the plugin's hooks raise; TypeError or ValueError where they return something wrong;
        pluggy's PluginValidationError for an unknown hook; DDBenchError for a name that is taken. Whatever
        it raises, nothing of the plugin stays registered.
        """
        name = f"{distribution}#{len(self._owner_of_plugin)}"
        try:
            self._accept(name, self._inspect(plugin, name), distribution)
        except BaseException:
            self._withdraw(name)
            raise

    def distiller(self, name: str) -> type[Distiller]:
        """The method class called `name`. Raises DDBenchError ("did you mean") for an unknown one."""
        return self._distillers.find(name)

    def evaluator(self, name: str) -> type[Evaluator]:
        """The protocol class called `name`. Raises DDBenchError ("did you mean") for an unknown one."""
        return self._evaluators.find(name)

    def dataset(self, name: str) -> DatasetSpec:
        """The data set called `name`, or `imagefolder:PATH`. Raises DDBenchError for an unknown one."""
        from ddbench.data.registry import resolve_dataset

        return resolve_dataset(name, self.datasets())

    def table(self, name: str) -> TableSpec:
        """The table called `name`. Raises DDBenchError ("did you mean") for an unknown one."""
        return self._tables.find(name)

    def distillers(self) -> tuple[type[Distiller], ...]:
        """Every registered method, in alphabetical order of their names."""
        return self._distillers.all()

    def evaluators(self) -> tuple[type[Evaluator], ...]:
        """Every registered protocol, in alphabetical order of their names."""
        return self._evaluators.all()

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """Every registered data set, in alphabetical order of their names."""
        return self._datasets.all()

    def tables(self) -> tuple[TableSpec, ...]:
        """Every registered table, in alphabetical order of their names."""
        return self._tables.all()

    def recipe_files(self) -> tuple[Path, ...]:
        """The recipe files that plugins ship, the core's own first, then by distribution name."""
        return tuple(self._recipes)

    def distribution_of(self, kind: Kind, name: str) -> str:
        """The installed distribution that gives `name`, e.g. `ddbench-wmdd`.

        Names that no plugin lists but that resolve (`imagefolder:PATH`) are the core's.
        Raises DDBenchError for an unknown name.
        """
        shelves: tuple[_Shelf[Any], ...] = (self._distillers, self._evaluators, self._datasets, self._tables)
        shelf = next(shelf for shelf in shelves if shelf.kind == kind)
        if name in shelf.owners:
            return shelf.owners[name]
        if kind == "dataset":
            self.dataset(name)
            return CORE
        raise unknown(kind, name, shelf.things)

    def add_commands(self, cli: click.Group) -> None:
        """Lets every plugin add its click commands to `cli`; one that raises is a warning line on stderr."""
        for hook in self._manager.hook.ddbench_commands.get_hookimpls():
            try:
                hook.function(*(cli,)[: len(hook.argnames)])
            except Exception as error:
                owner = self._owner_of_plugin[hook.plugin_name]
                _warn(f"plugin of {owner} could not add its commands: {_one_line(error)}")

    def emit(self, event: Event) -> None:
        """Tells every observer. One that raises is named once on stderr and not called again."""
        for hook in self._manager.hook.ddbench_event.get_hookimpls():
            if hook.plugin_name in self._silenced:
                continue
            try:
                hook.function(*(event,)[: len(hook.argnames)])
            except Exception as error:
                self._silenced.add(hook.plugin_name)
                owner = self._owner_of_plugin[hook.plugin_name]
                _warn(f"observer of {owner} failed and is silenced: {_one_line(error)}")

    def _load(self, point: metadata.EntryPoint) -> None:
        owner = point.dist.name if point.dist is not None else "an unknown distribution"
        name = f"{owner}:{point.name}"
        try:
            # A plugin may do anything when it is imported, ask for the end of the program too.
            offer = self._inspect(point.load(), name)
        except (Exception, SystemExit) as error:
            self._withdraw(name)
            _warn(f"plugin '{point.name}' of {owner} is left out: {_one_line(error)}")
            return
        self._accept(name, offer, owner)

    def _inspect(self, plugin: object, name: str) -> _Offer:
        """Registers the hooks of `plugin` and gathers what they return."""
        self._manager.register(plugin, name=name)
        self._manager.check_pending()

        def returned(hook_name: str) -> list[Any]:
            hooks = getattr(self._manager.hook, hook_name).get_hookimpls()
            return [thing for hook in hooks if hook.plugin_name == name for thing in hook.function()]

        recipes = [Path(path) for path in returned("ddbench_recipes")]
        for path in recipes:
            if not path.is_file():
                raise ValueError(f"its recipe {path} does not exist")
        return _Offer(
            distillers=[(_class_name(cls, Distiller), cls) for cls in returned("ddbench_distillers")],
            evaluators=[(_class_name(cls, Evaluator), cls) for cls in returned("ddbench_evaluators")],
            datasets=[(spec.name, spec) for spec in returned("ddbench_datasets")],
            tables=[(spec.name, spec) for spec in returned("ddbench_tables")],
            recipes=recipes,
        )

    def _accept(self, name: str, offer: _Offer, owner: str) -> None:
        self._distillers.refuse_duplicates(offer.distillers, owner)
        self._evaluators.refuse_duplicates(offer.evaluators, owner)
        self._datasets.refuse_duplicates(offer.datasets, owner)
        self._tables.refuse_duplicates(offer.tables, owner)
        self._distillers.add(offer.distillers, owner)
        self._evaluators.add(offer.evaluators, owner)
        self._datasets.add(offer.datasets, owner)
        self._tables.add(offer.tables, owner)
        self._recipes.extend(offer.recipes)
        self._owner_of_plugin[name] = owner

    def _withdraw(self, name: str) -> None:
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)


def _load_order(point: metadata.EntryPoint) -> tuple[bool, str, str]:
    owner = point.dist.name if point.dist is not None else ""
    return owner != CORE, owner, point.name


def _class_name(cls: Any, base: type) -> str:
    """The name of a method or protocol class. Raises TypeError for anything that is not a complete one."""
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise TypeError(f"{cls!r} is not a subclass of {base.__name__}")
    for attribute in ("name", "version"):
        if not isinstance(getattr(cls, attribute, None), str):
            raise TypeError(f"{cls.__name__} has no class variable `{attribute}` (a string)")
    return str(cls.name)  # type: ignore[attr-defined]


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _warn(text: str) -> None:
    print(f"ddbench: warning: {text}", file=sys.stderr)
