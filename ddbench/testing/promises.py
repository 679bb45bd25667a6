"""The promises that methods and protocols share, and how a broken one is told."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import ClassVar, NoReturn

import pytest
from pydantic import ValidationError

from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator
from ddbench.core.errors import DDBenchError
from ddbench.nn.global_state import changed_names
from ddbench.registry.registry import GROUP
from ddbench.registry.scaffold import NAME
from ddbench.testing.bench import Bench, Run, bench_for

IMPORTS = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
    if "torch" in sys.modules:
        sys.exit(print(module))
"""


def broken(promise: str, found: str, remedy: str) -> NoReturn:
    """Fails the test: the promise that is not kept, what was found, and what to do about it."""
    pytest.fail(f"broken promise: {promise}\n  found: {found}\n  remedy: {remedy}", pytrace=False)


def demand(kept: bool, promise: str, found: str, remedy: str) -> None:
    """Fails the test where a promise is not kept."""
    if not kept:
        broken(promise, found, remedy)


class Conformance:
    """What the tests of methods and of protocols have in common.

    `dataset`, `budget` (a recipe) and `ipc` say on what is tested; `draws` is False where the result does not
    depend on the seed.
    """

    dataset: ClassVar[str] = "digits"
    budget: ClassVar[str] = "smoke"
    ipc: ClassVar[int] = 2
    draws: ClassVar[bool] = True

    @classmethod
    def subject(cls) -> Distiller | Evaluator:
        """The method or protocol under test, with its settings."""
        raise NotImplementedError

    @pytest.fixture
    def bench(self, tmp_path_factory: pytest.TempPathFactory) -> Bench:
        """Where the subject runs: the same for all tests of a class."""
        folder = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            folder = folder.parent  # one teacher for all workers of a session
        return _bench(type(self), folder / "ddbench")  # type: ignore[arg-type]  # mypy: a class cannot be hashed

    @classmethod
    def bench_in(cls, folder: Path) -> Bench:
        """A new bench of the subject, that shares a teacher with the others in `folder`."""
        folder.mkdir(exist_ok=True)
        try:
            return bench_for(cls.subject(), folder, cls.dataset, cls.budget, cls.ipc)
        except DDBenchError as error:
            broken("it can be registered beside what is installed", str(error), "see the message")

    # -- what it is called, and its settings ------------------------------------------------------------------

    def test_it_has_a_name_a_version_and_a_meaning(self) -> None:
        subject = type(self.subject())
        demand(
            bool(NAME.fullmatch(subject.name)),
            "the name is typed on a command line and stands in the names of files",
            f"name = {subject.name!r}",
            "take lower-case letters, digits and dashes, a letter first",
        )
        demand(
            bool(subject.version.strip()),
            "a version stands in every cache key and record",
            f"version = {subject.version!r}",
            'set version = "1", and raise it whenever results change',
        )
        demand(
            bool((subject.__doc__ or "").strip()) and subject.__doc__ not in (Distiller.__doc__, Evaluator.__doc__),
            "`ddbench list` says in a line what it does",
            f"class {subject.__name__} has no docstring",
            "say in one line what it does",
        )

    def test_every_setting_is_described(self) -> None:
        fields = type(self.subject()).model_fields
        bare = [name for name, field in fields.items() if not (field.description or "").strip()]
        demand(
            not bare,
            "`ddbench list` explains every setting",
            f"no description: {', '.join(bare)}",
            "write Field(default=..., description='what it does (where its value comes from)')",
        )

    def test_wrong_settings_are_refused(self) -> None:
        subject = self.subject()
        settings = subject.model_dump()
        demand(
            not _takes(subject, {**settings, "no_such_setting": 1}),
            "a misspelt setting is refused, not ignored",
            f"{type(subject).__name__}(no_such_setting=1) is accepted",
            'keep extra="forbid" of the base class',
        )
        loose = [name for name in settings if _takes(subject, {**settings, name: object()})]
        demand(
            not loose,
            "a value of the wrong type is refused",
            f"any object is accepted as {', '.join(loose)}",
            "annotate the field with what it may hold: int, float, bool, Literal[...], str",
        )
        movable = [name for name in settings if _changes(subject, name)]
        demand(
            not movable,
            "settings that a result was made with do not change afterwards",
            f"can be assigned to: {', '.join(movable)}",
            "keep frozen=True of the base class",
        )

    def test_settings_survive_a_record(self) -> None:
        subject = self.subject()
        try:
            again: object = type(subject)(**subject.model_dump(mode="json"))
        except ValueError as error:
            again = error
        demand(
            again == subject,
            "settings are written to keys and records as JSON, and are the same when they are read back",
            f"{subject!r} comes back as {again!r}",
            "use fields of plain types, and validators that take what they return",
        )

    def test_its_modules_import_no_torch(self) -> None:
        modules = entry_modules(type(self.subject()))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-c", IMPORTS, *modules]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if any(f"No module named '{module.partition('.')[0]}'" in done.stderr for module in modules):
            pytest.skip("its module cannot be imported by another process: move the class into a package")
        demand(done.returncode == 0, "its modules can be imported", done.stderr.strip()[-500:], "mend the import")
        demand(
            not done.stdout,
            "a plugin's entry-point modules import no torch, so that `ddbench list` and `--help` are quick",
            f"torch is imported by {done.stdout.strip()}",
            "move numerics to a sibling module and import it inside the method; types under `if TYPE_CHECKING:`",
        )

    # -- what its results depend on ---------------------------------------------------------------------------

    def test_the_same_seed_gives_the_same_result(self, bench: Bench) -> None:
        # A run that also stands disturbances shows it; where that one differs, one without them is needed.
        undisturbed = first(bench).made == bench.disturbed
        made = bench.disturbed if undisturbed else bench.again()
        self._same(
            bench,
            made,
            "the same task gives the same bytes twice",
            "take every random draw from a seeded generator: task.generator('name', ...), ddbench.core.seeds",
        )

    def test_the_global_generators_do_not_matter(self, bench: Bench) -> None:
        first(bench)
        self._same(
            bench,
            bench.disturbed,
            "results do not depend on what other code did to the global generators",
            "give every random function generator=task.generator('name', ...); build networks by ddbench.nn.build",
        )

    def test_another_process_gives_the_same_result(self, bench: Bench) -> None:
        first(bench)
        made = bench.elsewhere
        if made is None:
            pytest.skip("its class cannot be imported by another process: move it to the top of a module in a package")
        self._same(
            bench,
            made,
            "another process, with its units in another order, gives the same bytes",
            "keep nothing in modules, classes or closures; draw nothing from hash(), id() or the order of a set",
        )

    def test_the_global_state_is_left_alone(self, bench: Bench) -> None:
        changed = first(bench).global_changes
        demand(
            not changed,
            "global generators, default types and modes are left as they were",
            f"{bench.name} changes {', '.join(changed)}",
            "seed generators of your own (task.generator), and use context managers for modes",
        )

    def test_an_interrupted_run_ends_with_the_same_result(self, bench: Bench) -> None:
        first(bench)
        promise = "a run that is killed and started again ends with the same bytes"
        made, journal = bench.interrupted("save")
        if not journal.saved:
            made, _ = bench.interrupted("report")
        demand(
            journal.found > 0 or journal.saved == 0,
            "what was saved to a checkpoint is used",
            f"{bench.name} saves to task.checkpoint and never loads from it",
            "begin with task.checkpoint.load(); it is None where there is nothing",
        )
        self._same(
            bench,
            made,
            promise,
            "save all that the rest of the loop depends on (step, optimiser, images); draw by step, not in sequence",
        )

    def _same(self, bench: Bench, made: Mapping[str, str], promise: str, remedy: str) -> None:
        wrong = changed_names(first(bench).made, made)
        demand(not wrong, promise, f"{bench.name}: {_some(wrong)} differ", remedy)

    # -- the teacher and the device ---------------------------------------------------------------------------

    def test_a_teacher_is_used_only_where_one_is_declared(self, bench: Bench) -> None:
        undeclared = ""
        try:
            _ = bench.first
        except DDBenchError as error:
            undeclared = str(error) if "needs_teacher = False" in str(error) else ""
        demand(
            not undeclared,
            "what declares needs_teacher = False never touches a teacher",
            undeclared,
            "set needs_teacher = True, or do without task.teacher and task.statistics",
        )

    def test_the_teacher_is_left_as_it_was(self, bench: Bench) -> None:
        changed = first(bench).teacher_changes
        demand(
            not changed,
            "the teacher is left as it was: weights, mode, gradients, hooks",
            f"{bench.name} changes {', '.join(changed)}",
            "remove what you register (try/finally), never step or train it, ask for gradients of images only",
        )

    def test_nothing_stays_on_the_device(self, bench: Bench) -> None:
        first(bench)
        demand(
            not bench.other.left,
            "when a result is made, nothing of it stays in memory",
            f"{bench.name} leaves {bench.other.left} behind",
            "keep no tensors in modules, classes or closures that outlive the task",
        )


@functools.lru_cache(maxsize=2)
def _bench(kit: type[Conformance], folder: Path) -> Bench:
    return kit.bench_in(folder)


def first(bench: Bench) -> Run:
    """The run that others are compared with; where the core refuses it, so does every test that needs it."""
    try:
        return bench.first
    except DDBenchError as error:
        broken("a small run on the kit's dataset succeeds", str(error), "see the message")


def entry_modules(cls: type) -> list[str]:
    """The module of `cls`, and the modules that its top-level package names as entry points of ddbench."""
    package = cls.__module__.partition(".")[0]
    points = {point.module for point in metadata.entry_points(group=GROUP)}
    return sorted({cls.__module__, *(name for name in points if name.partition(".")[0] == package)})


def _takes(subject: Distiller | Evaluator, settings: Mapping[str, object]) -> bool:
    try:
        type(subject)(**settings)
    except (ValidationError, TypeError):
        return False
    return True


def _changes(subject: Distiller | Evaluator, name: str) -> bool:
    copy = subject.model_copy()
    try:
        setattr(copy, name, getattr(copy, name))
    except ValidationError:
        return False
    return True


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
