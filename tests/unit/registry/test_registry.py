"""The plugin registry against real installed distributions: folders with a module and a `.dist-info`."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import click
import pluggy
import pytest

from ddbench.api.context import CheckpointIO
from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator
from ddbench.api.hookspecs import hookimpl
from ddbench.api.stage import Stage, StageRun
from ddbench.api.table import TableSpec
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.registry.registry import PluginRegistry

METHOD = """
    from ddbench.api import Distiller, hookimpl

    class Method(Distiller):
        name = "{name}"
        version = "1"

    @hookimpl
    def ddbench_distillers():
        return [Method]
"""

LOST_RECIPE = """
    @hookimpl
    def ddbench_recipes():
        return ["nowhere.yaml"]
"""


def installed_in(folder: Path) -> list[metadata.EntryPoint]:
    """The entry points of the distributions in `folder` only."""
    actual = metadata.distributions(path=[str(folder)])
    return [point for dist in actual for point in dist.entry_points if point.group == "ddbench"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterable[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("ddtest_"):
            del sys.modules[name]


@pytest.fixture
def install(site: Path, install_plugin: Callable[[Path, str, str], None]) -> Callable[[str, str], None]:
    """Installs a distribution of a name and a source in `site`."""
    return functools.partial(install_plugin, site)


class Herring(Distiller, frozen=True):
    """A test method."""

    name = "herring"
    version = "1"


class Protocol(Evaluator, frozen=True):
    """A test protocol."""

    name = "strict"
    version = "1"


def plugin(**hooks: object) -> object:
    """A plugin object whose hooks return the given values."""
    return SimpleNamespace(**{name: hookimpl(lambda value=value: value) for name, value in hooks.items()})


def test_installed_plugin_is_found_and_names_its_distribution(site: Path, install: Callable[[str, str], None]) -> None:
    install("ddtest-good", METHOD.format(name="herring"))
    registry = PluginRegistry(installed_in(site))
    assert [cls.name for cls in registry.distillers()] == ["herring"]
    assert registry.distiller("herring").version == "1"
    assert registry.distribution_of("method", "herring") == "ddtest-good"


def test_default_registry_reads_the_installed_entry_points(install: Callable[[str, str], None]) -> None:
    install("ddtest-good", METHOD.format(name="herring"))
    assert "herring" in {cls.name for cls in PluginRegistry().distillers()}


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import no_such_module_of_ours", "no_such_module_of_ours"),
        ("raise RuntimeError('two\\nlines')", "two lines"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def broken(:", "SyntaxError"),
        (METHOD.format(name="herring").replace("[Method]", "1 / 0"), "ZeroDivisionError"),
        (METHOD.format(name="herring").replace("[Method]", "[int]"), "not a subclass of Distiller"),
        (METHOD.format(name="herring").replace('version = "1"', ""), "`version`"),
        (
            METHOD.format(name="herring").replace("ddbench_distillers", "ddbench_distilers"),
            "ddbench_distilers",
        ),
        (METHOD.format(name="herring").replace("distillers()", "distillers(wrong)"), "wrong"),
        (METHOD.format(name="herring") + LOST_RECIPE, "nowhere.yaml"),
    ],
)
def test_broken_plugin_is_one_line_and_the_others_work(
    site: Path, install: Callable[[str, str], None], capsys: pytest.CaptureFixture[str], source: str, says: str
) -> None:
    install("ddtest-bad", source)
    install("ddtest-good", METHOD.format(name="sprat"))
    registry = PluginRegistry(installed_in(site))
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert "ddtest-bad" in line
    assert says in line
    # Nothing of a broken plugin is half there.
    assert [cls.name for cls in registry.distillers()] == ["sprat"]
    assert registry.recipe_files() == ()


def test_duplicate_name_names_both_distributions(site: Path, install: Callable[[str, str], None]) -> None:
    install("ddtest-one", METHOD.format(name="herring"))
    install("ddtest-two", METHOD.format(name="herring"))
    with pytest.raises(DDBenchError, match=r"method 'herring' .* ddtest-one and ddtest-two"):
        PluginRegistry(installed_in(site))


def test_refused_registration_leaves_nothing_behind() -> None:
    registry = PluginRegistry(())
    registry.register(plugin(ddbench_distillers=[Herring]), "first")
    with pytest.raises(DDBenchError, match="first and second"):
        registry.register(plugin(ddbench_evaluators=[Protocol], ddbench_distillers=[Herring]), "second")
    with pytest.raises(pluggy.PluginValidationError):
        registry.register(plugin(ddbench_evaluators=[Protocol], ddbench_unheard_of=[]), "third")
    assert registry.evaluators() == ()
    registry.register(plugin(ddbench_evaluators=[Protocol]), "fourth")
    assert registry.distribution_of("evaluator", "strict") == "fourth"


def test_same_name_twice_in_one_plugin_is_refused() -> None:
    with pytest.raises(DDBenchError, match="herring"):
        PluginRegistry(()).register(plugin(ddbench_distillers=[Herring, Herring]))


def test_one_name_may_stand_for_things_of_different_kinds() -> None:
    class SameName(Evaluator, frozen=True):
        name = "herring"
        version = "2"

    registry = PluginRegistry(())
    registry.register(plugin(ddbench_distillers=[Herring], ddbench_evaluators=[SameName]))
    assert registry.distiller("herring") is Herring
    assert registry.evaluator("herring") is SameName


def test_unknown_names_are_answered_with_the_nearest() -> None:
    registry = PluginRegistry(())
    table = TableSpec("compare", "all against all", lambda records, options: records)
    registry.register(plugin(ddbench_distillers=[Herring], ddbench_evaluators=[Protocol], ddbench_tables=[table]))
    with pytest.raises(DDBenchError, match="unknown method 'hering'; did you mean 'herring'"):
        registry.distiller("hering")
    with pytest.raises(DDBenchError, match="unknown evaluator 'zz'; known: strict"):
        registry.evaluator("zz")
    with pytest.raises(DDBenchError, match="unknown table 'compar'; did you mean 'compare'"):
        registry.table("compar")
    with pytest.raises(DDBenchError, match="unknown method"):
        registry.distribution_of("method", "strict")


def test_datasets_resolve_by_name_and_by_folder() -> None:
    from ddbench.data import registry as builtin

    registry = PluginRegistry(())
    registry.register(builtin, "core")
    assert registry.dataset("digits").classes == 10
    assert registry.distribution_of("dataset", "digits") == "core"
    assert registry.dataset("imagefolder:/some/where").name == "imagefolder:where"
    assert registry.distribution_of("dataset", "imagefolder:/some/where") == "ddbench"
    with pytest.raises(DDBenchError, match="did you mean 'digits'"):
        registry.dataset("digit")


def test_recipe_files_come_from_plugins(tmp_path: Path) -> None:
    recipe = tmp_path / "quick.yaml"
    recipe.touch()
    registry = PluginRegistry(())
    registry.register(plugin(ddbench_recipes=[recipe]))
    assert registry.recipe_files() == (recipe,)


class Observer:
    """Implements both observer hooks."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    @hookimpl
    def ddbench_event(self, event: object) -> None:
        self.calls.append(event)

    @hookimpl
    def ddbench_record(self, record: object) -> None:
        self.calls.append(record)


class FailingObserver(Observer):
    @hookimpl
    def ddbench_event(self, event: object) -> None:
        self.calls.append(event)
        raise OSError("disk full")

    @hookimpl
    def ddbench_record(self, record: object) -> None:
        self.calls.append(record)
        raise OSError("no network")


class ObserverWithoutArguments(Observer):
    @hookimpl
    def ddbench_event(self) -> None:  # type: ignore[override]
        self.calls.append(None)

    @hookimpl
    def ddbench_record(self) -> None:  # type: ignore[override]
        self.calls.append(None)


def test_observer_that_raises_is_named_once_and_silenced(capsys: pytest.CaptureFixture[str]) -> None:
    good, bad, without = Observer(), FailingObserver(), ObserverWithoutArguments()
    registry = PluginRegistry(())
    registry.register(good, "good")
    registry.register(bad, "bad")
    registry.register(without, "other")
    events = [Event("step", "teacher", step=step, total=3) for step in range(3)]
    for event in events:
        registry.emit(event)
    assert good.calls == events
    assert bad.calls == events[:1]
    assert without.calls == [None, None, None]
    (line,) = capsys.readouterr().err.splitlines()
    failure = "failed and is not called again: OSError: disk full"
    assert line.startswith(f"ddbench: warning: observer of bad {failure} (in ddbench_event; test_registry.py, line ")


def test_observers_of_records_are_called_even_if_their_other_hook_is_silenced(
    capsys: pytest.CaptureFixture[str],
) -> None:
    good, bad, without = Observer(), FailingObserver(), ObserverWithoutArguments()
    registry = PluginRegistry(())
    for name, observer in {"good": good, "bad": bad, "other": without}.items():
        registry.register(observer, name)
    registry.emit(Event("started", "teacher"))
    capsys.readouterr()
    for observer in (good, bad, without):
        observer.calls.clear()
    records = ["first", "second"]
    for record in records:
        registry.emit_record(record)
    assert good.calls == records
    assert bad.calls == ["first"]
    assert without.calls == [None, None]
    (line,) = capsys.readouterr().err.splitlines()
    assert "observer of bad failed and is not called again: OSError: no network (in ddbench_record; " in line


def test_observers_of_records_cannot_change_global_state(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    class Changes:
        @hookimpl
        def ddbench_record(self, record: object) -> None:
            print("a line")
            torch.manual_seed(1)
            torch.set_default_dtype(torch.float64)

    class Stops:
        @hookimpl
        def ddbench_record(self, record: object) -> None:
            raise KeyboardInterrupt

    registry = PluginRegistry(())
    registry.register(Changes(), "changing")
    before = torch.get_rng_state()
    for _ in range(2):
        registry.emit_record("record")
    assert torch.get_default_dtype() is torch.float32
    assert torch.equal(torch.get_rng_state(), before)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("observer of changing changed torch's global generator, torch's default dtype") == 1
    assert captured.err.count("observer of changing printed to stdout") == 1
    registry.register(Stops(), "stopping")
    with pytest.raises(KeyboardInterrupt):
        registry.emit_record("record")


def test_stages_are_registered_like_methods() -> None:
    class Trajectories(Stage):
        name = "trajectories"
        version = "1"

        def build(self, run: StageRun, part: int, checkpoint: CheckpointIO) -> Any:
            return {}, {}

    class Unversioned(Trajectories):
        name = "unversioned"
        version = None  # type: ignore[assignment]

    registry = PluginRegistry(())
    registry.register(plugin(ddbench_stages=[Trajectories]), "first")
    assert registry.stages() == (Trajectories,)
    assert registry.stage("trajectories") is Trajectories
    assert registry.distribution_of("stage", "trajectories") == "first"
    assert registry.describe("stage", "trajectories") == "stage 'trajectories' of first"
    with pytest.raises(DDBenchError, match="unknown stage 'trajectory'; did you mean 'trajectories'"):
        registry.stage("trajectory")
    with pytest.raises(DDBenchError, match="stage 'trajectories' is registered by both first and second"):
        registry.register(plugin(ddbench_stages=[Trajectories]), "second")
    with pytest.raises(TypeError, match="Unversioned has no class variable `version`"):
        registry.register(plugin(ddbench_stages=[Unversioned]), "third")
    with pytest.raises(TypeError, match="is not a subclass of Stage"):
        registry.register(plugin(ddbench_stages=[Herring]), "fourth")


def test_commands_are_added_and_a_failing_one_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    class Adds:
        @hookimpl
        def ddbench_commands(self, cli: click.Group) -> None:
            cli.add_command(click.Command("extra"))

    class Fails:
        @hookimpl
        def ddbench_commands(self, cli: click.Group) -> None:
            raise KeyError("oops")

    registry = PluginRegistry(())
    registry.register(Fails(), "failing")
    registry.register(Adds(), "adding")
    cli = click.Group()
    registry.add_commands(cli)
    assert "extra" in cli.commands
    assert "failing" in capsys.readouterr().err


def test_registry_and_listing_import_neither_torch_nor_other_heavy_libraries() -> None:
    code = """
        import sys
        import ddbench.registry.registry, ddbench.cli.listing, ddbench.cli.progress, ddbench.api.table
        registry = ddbench.registry.registry.PluginRegistry()
        for kind in ddbench.cli.listing.KINDS:
            ddbench.cli.listing.listing_text(kind, None, registry)
        heavy = {"torch", "torchvision", "timm", "pandas", "matplotlib", "sklearn", "scipy", "rich"}
        print(sorted(heavy & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
