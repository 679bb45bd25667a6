"""The plugin registry: guarded loading of entry points, lookup with "did you mean". Imports no torch."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import pluggy

from ddbench.api import hookspecs
from ddbench.api.dataset import DatasetSpec
from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator
from ddbench.api.stage import Stage
from ddbench.api.table import TableSpec
from ddbench.config.recipes import Recipe, load_file
from ddbench.core.errors import DDBenchError, PluginError, unknown
from ddbench.core.interruption import RunInterrupt

if TYPE_CHECKING:
    import click

    from ddbench.core.events import Event

GROUP = hookspecs.PROJECT
CORE = "ddbench"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:-]*")
"""What things may be called: no name is a path, and each can be typed."""

Kind = Literal["method", "evaluator", "dataset", "table", "stage"]
T = TypeVar("T")
# What a person or ddbench itself asked for is no plugin's fault, wherever it is raised.
_ASKED_FOR = (KeyboardInterrupt, RunInterrupt)


@dataclass(frozen=True)
class _Collection(Generic[T]):
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
class _Contents:
    """What one plugin's hooks returned, checked, before anything of it is registered."""

    distillers: list[tuple[str, type[Distiller]]]
    evaluators: list[tuple[str, type[Evaluator]]]
    datasets: list[tuple[str, DatasetSpec]]
    tables: list[tuple[str, TableSpec]]
    stages: list[tuple[str, type[Stage[Any]]]]
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
        self._distillers: _Collection[type[Distiller]] = _Collection("method")
        self._evaluators: _Collection[type[Evaluator]] = _Collection("evaluator")
        self._datasets: _Collection[DatasetSpec] = _Collection("dataset")
        self._tables: _Collection[TableSpec] = _Collection("table")
        self._stages: _Collection[type[Stage[Any]]] = _Collection("stage")
        self._recipe_files: dict[Path, str] = {}
        self._recipes: dict[Path, Recipe] = {}
        self._owner_of_plugin: dict[str, str] = {}
        self._silenced: set[str] = set()
        self._told: set[str] = set()
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

    def stages(self) -> tuple[type[Stage[Any]], ...]:
        """Every registered stage, in the order of registration."""
        return tuple(self._stages.things.values())

    def emit_record(self, record: Any) -> None:
        """Calls every record observer."""
        for hook in self._manager.hook.ddbench_record.get_hookimpls():
            hook.function(*(record,)[: len(hook.argnames)])

    def recipe_files(self) -> tuple[Path, ...]:
        """The recipe files that plugins ship, the core's own first, then by distribution name."""
        return tuple(self._recipe_files)

    def recipes(self) -> tuple[Recipe, ...]:
        """What `recipe_files` hold, each read once. Raises DDBenchError for one that is no recipe: what runs under its
        name would be something else without it."""
        for path, owner in self._recipe_files.items():
            if path not in self._recipes:
                try:
                    self._recipes[path] = load_file(path)
                except DDBenchError as error:
                    raise DDBenchError(f"{error} ({owner} ships it: mend or uninstall that)") from error
        return tuple(self._recipes[path] for path in self._recipe_files)

    def who(self, kind: Kind, name: str) -> str:
        """How a plugin's thing is called in an error: `method 'blur' of ddbench-blur`."""
        try:
            return f"{kind} '{name}' of {self.distribution_of(kind, name)}"
        except DDBenchError:
            return f"{kind} '{name}'"  # it may be handed over without being installed

    @contextlib.contextmanager
    def attribute_errors(self, kind: Kind, name: str) -> Iterator[None]:
        """Whatever a plugin's code raises in the block becomes a PluginError that names it: also SystemExit.

        DDBenchErrors, Ctrl-C, a stop that was asked for and the end of the memory pass as they are.
        """
        try:
            yield
        except (DDBenchError, GeneratorExit, *_ASKED_FOR):
            raise
        except BaseException as error:
            if _ran_out(error):
                raise
            raise PluginError(f"{self.who(kind, name)}: {_one_line(error)}") from error

    def distribution_of(self, kind: Kind, name: str) -> str:
        """The installed distribution that gives `name`, e.g. `ddbench-wmdd`.

        Names that no plugin lists but that resolve (`imagefolder:PATH`) are the core's.
        Raises DDBenchError for an unknown name.
        """
        shelves: tuple[_Collection[Any], ...] = (self._distillers, self._evaluators, self._datasets, self._tables)
        shelf = next(shelf for shelf in shelves if shelf.kind == kind)
        if name in shelf.owners:
            return shelf.owners[name]
        if kind == "dataset":
            self.dataset(name)
            return CORE
        raise unknown(kind, name, shelf.things)

    def add_commands(self, cli: click.Group) -> None:
        """Lets every plugin add its click commands to `cli`; one that raises is a warning line on stderr.

        A command that is there already stays what it is.
        """
        for hook in self._manager.hook.ddbench_commands.get_hookimpls():
            owner, before = self._owner_of_plugin[hook.plugin_name], dict(cli.commands)
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    hook.function(*(cli,)[: len(hook.argnames)])
            except _ASKED_FOR:
                raise
            except BaseException as error:
                _warn(f"plugin of {owner} could not add its commands: {_one_line(error)}")
            taken = [name for name, command in before.items() if cli.commands.get(name) is not command]
            if taken:
                cli.commands.update(before)
                _warn(f"plugin of {owner} may not replace the command {', '.join(taken)}")

    def emit(self, event: Event) -> None:
        """Tells every observer. One that raises is named once on stderr and not called again."""
        for hook in self._manager.hook.ddbench_event.get_hookimpls():
            if hook.plugin_name in self._silenced:
                continue
            owner = self._owner_of_plugin[hook.plugin_name]
            try:
                with self._observing(owner):
                    hook.function(*(event,)[: len(hook.argnames)])
            except _ASKED_FOR:
                raise
            except BaseException as error:
                self._silenced.add(hook.plugin_name)
                _warn(f"observer of {owner} failed and is silenced: {_one_line(error)}")

    def _observing(self, owner: str) -> contextlib.AbstractContextManager[None]:
        """Observers see and change nothing: what one changes for everybody is put back, and told once."""
        if owner == CORE:
            return contextlib.nullcontext()
        import torch

        from ddbench.nn.global_state import restore_global_state

        def tell(changed: list[str], printed: bool) -> None:
            did = [f"changed {', '.join(changed)}: put back"] if changed else []
            did += ["printed to stdout, which is for results: shown here"] if printed else []
            for text in did:
                line = f"observer of {owner} {text}"
                if line not in self._told:
                    self._told.add(line)
                    _warn(line)

        return restore_global_state(torch.device("cuda" if torch.cuda.is_available() else "cpu"), tell)

    def _load(self, point: metadata.EntryPoint) -> None:
        owner = point.dist.name if point.dist is not None else "an unknown distribution"
        name = f"{owner}:{point.name}"
        dtype = _default_dtype()
        try:
            # A plugin may do anything when it is imported, ask for the end of the program too.
            with contextlib.redirect_stdout(sys.stderr):
                offer = self._inspect(point.load(), name)
        except _ASKED_FOR:
            raise
        except BaseException as error:
            self._withdraw(name)
            _warn(f"plugin '{point.name}' of {owner} is left out: {_one_line(error)}")
        else:
            self._accept(name, offer, owner)
        torch = sys.modules.get("torch")
        if torch is not None and _default_dtype() is not (dtype or torch.float32):
            torch.set_default_dtype(dtype or torch.float32)
            _warn(f"plugin '{point.name}' of {owner} changed torch's default dtype when it was imported: put back")

    def _inspect(self, plugin: object, name: str) -> _Contents:
        """Registers the hooks of `plugin` and gathers what they return."""
        self._manager.register(plugin, name=name)
        self._manager.check_pending()

        def returned(hook_name: str) -> list[Any]:
            hooks = getattr(self._manager.hook, hook_name).get_hookimpls()
            return [thing for hook in hooks if hook.plugin_name == name for thing in hook.function()]

        files = [Path(path) for path in returned("ddbench_recipes")]
        for path in files:
            if not path.is_file():
                raise ValueError(f"its recipe {path} does not exist")
        return _Contents(
            distillers=[(_class_name(cls, Distiller), cls) for cls in returned("ddbench_distillers")],
            evaluators=[(_class_name(cls, Evaluator), cls) for cls in returned("ddbench_evaluators")],
            datasets=[(_spec_name(spec, DatasetSpec), spec) for spec in returned("ddbench_datasets")],
            tables=[(_spec_name(spec, TableSpec), spec) for spec in returned("ddbench_tables")],
            stages=[(_class_name(cls, Stage), cls) for cls in returned("ddbench_stages")],
            recipes=files,
        )

    def _accept(self, name: str, offer: _Contents, owner: str) -> None:
        self._distillers.refuse_duplicates(offer.distillers, owner)
        self._evaluators.refuse_duplicates(offer.evaluators, owner)
        self._datasets.refuse_duplicates(offer.datasets, owner)
        self._tables.refuse_duplicates(offer.tables, owner)
        self._stages.refuse_duplicates(offer.stages, owner)
        self._distillers.add(offer.distillers, owner)
        self._evaluators.add(offer.evaluators, owner)
        self._datasets.add(offer.datasets, owner)
        self._tables.add(offer.tables, owner)
        self._stages.add(offer.stages, owner)
        self._recipe_files.update(dict.fromkeys(offer.recipes, owner))
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
    return _name(cls.name)  # type: ignore[attr-defined]


def _spec_name(spec: Any, base: type) -> str:
    """The name of a dataset or table. Raises TypeError for anything that is none."""
    if not isinstance(spec, base):
        raise TypeError(f"{spec!r} is no {base.__name__}")
    return _name(spec.name)  # type: ignore[attr-defined]


def _name(name: Any) -> str:
    """The name itself. Raises ValueError for one that could be taken for a path or not be typed."""
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise ValueError(f"{name!r} is no name: letters, digits and . _ + : - alone, a letter or digit first")
    return name


def _one_line(error: BaseException) -> str:
    """The kind of exception and its text, which a plugin may not even be able to give."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _ran_out(error: BaseException) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from ddbench.nn.memory import is_out_of_memory

    return is_out_of_memory(error)


def _default_dtype() -> Any:
    """Torch's default dtype where torch is imported, else None."""
    torch = sys.modules.get("torch")
    return torch and torch.get_default_dtype()


def _warn(text: str) -> None:
    # As an error: one line, whatever a plugin's text has in it.
    print(DDBenchError(f"ddbench: warning: {text}"), file=sys.stderr)
