"""The tests that methods and protocols have in common."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import ValidationError

from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator
from ddbench.core.errors import DDBenchError
from ddbench.nn.global_state import changed_names
from ddbench.registry.registry import GROUP
from ddbench.registry.scaffold import NAME
from ddbench.testing.harness import Harness, Run, harness_for
from ddbench.testing.requirements import fail, require

IMPORT_SCRIPT = """
import importlib, json, sys
torch = ""
for module in sys.argv[1:]:
    importlib.import_module(module)
    if not torch and "torch" in sys.modules:
        torch = module
print(json.dumps([torch, list(sys.modules)]))
"""


class Conformance:
    """Base class of the conformance tests.

    Args:
        dataset: Name of the dataset that the tests run on.
        budget: Name of the recipe that sets sizes, epochs and steps.
        ipc: Images per class.
        depends_on_seed: Whether another seed gives another result.
    """

    dataset: ClassVar[str] = "digits"
    budget: ClassVar[str] = "smoke"
    ipc: ClassVar[int] = 2
    depends_on_seed: ClassVar[bool] = True

    @classmethod
    def subject(cls) -> Distiller | Evaluator:
        """Returns the method or protocol under test, with its settings."""
        raise NotImplementedError

    @pytest.fixture
    def harness(self, tmp_path_factory: pytest.TempPathFactory) -> Harness:
        """Runs the subject. All tests of a class share it."""
        folder = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            folder = folder.parent  # all pytest workers of a session use this folder, so that they share a teacher
        return _cached_harness(type(self), folder / "ddbench")  # type: ignore[arg-type]  # mypy: a class cannot be hashed

    @classmethod
    def harness_in(cls, folder: Path) -> Harness:
        """Creates a harness of the subject.

        Args:
            folder: Folder that all harnesses of a session share.

        Returns:
            The harness. The current test fails if the subject cannot be registered.
        """
        folder.mkdir(exist_ok=True)
        try:
            return harness_for(cls.subject(), folder, cls.dataset, cls.budget, cls.ipc)
        except DDBenchError as error:
            fail("the class can be registered together with the installed plugins", str(error), "see the message")

    # -- name and settings --------------------------------------------------------------------------------------

    def test_name_version_and_docstring(self) -> None:
        subject = type(self.subject())
        require(
            bool(NAME.fullmatch(subject.name)),
            "the name is valid on a command line and in file names",
            f"name = {subject.name!r}",
            "use lower-case letters, digits and dashes, and start with a letter",
        )
        require(
            bool(subject.version.strip()),
            "the class has a version, which is part of every cache key and record",
            f"version = {subject.version!r}",
            'set version = "1", and increase it whenever results change',
        )
        require(
            bool((subject.__doc__ or "").strip()) and subject.__doc__ not in (Distiller.__doc__, Evaluator.__doc__),
            "the class has a docstring, which `ddbench list` prints",
            f"class {subject.__name__} has no docstring",
            "describe in one line what it does",
        )

    def test_settings_have_descriptions(self) -> None:
        fields = type(self.subject()).model_fields
        undescribed = [name for name, field in fields.items() if not (field.description or "").strip()]
        require(
            not undescribed,
            "every setting has a description, which `ddbench list` prints",
            f"no description: {', '.join(undescribed)}",
            "write Field(default=..., description='what it does (source of its value)')",
        )

    def test_wrong_settings_are_rejected(self) -> None:
        subject = self.subject()
        settings = subject.model_dump()
        require(
            not _accepts(subject, {**settings, "no_such_setting": 1}),
            "a setting that does not exist is rejected",
            f"{type(subject).__name__}(no_such_setting=1) is accepted",
            'keep extra="forbid" of the base class',
        )
        untyped = [name for name in settings if _accepts(subject, {**settings, name: object()})]
        require(
            not untyped,
            "a value of the wrong type is rejected",
            f"any object is accepted as {', '.join(untyped)}",
            "annotate the field with the type of its values: int, float, bool, Literal[...], str",
        )
        mutable = [name for name in settings if _is_assignable(subject, name)]
        require(
            not mutable,
            "settings cannot be changed after construction",
            f"can be assigned: {', '.join(mutable)}",
            "keep frozen=True of the base class",
        )

    def test_settings_round_trip_through_json(self) -> None:
        subject = self.subject()
        try:
            restored: object = type(subject)(**subject.model_dump(mode="json"))
        except ValueError as error:
            restored = error
        require(
            restored == subject,
            "settings are equal after they are written to a record as JSON and read back",
            f"{subject!r} is read back as {restored!r}",
            "use fields of plain types, and validators that accept their own results",
        )

    def test_entry_modules_import_no_torch(self) -> None:
        subject = type(self.subject())
        modules = entry_modules(subject)
        done = _import_in_new_process(modules)
        if done.returncode == 0 and subject.__module__ not in json.loads(done.stdout)[1]:
            # No entry point imports it: it is not installed, or imported when it is used.
            modules = (*modules, subject.__module__)
            done = _import_in_new_process(modules)
        if any(f"No module named '{module.partition('.')[0]}'" in done.stderr for module in modules):
            pytest.skip("another process cannot import its module: move the class into a package")
        require(
            done.returncode == 0,
            "its modules can be imported",
            done.stderr.strip()[-500:],
            "correct the error in the module",
        )
        heavy = json.loads(done.stdout)[0]
        require(
            not heavy,
            "entry-point modules do not import torch, so that `ddbench list` and `--help` are fast",
            f"{heavy} imports torch",
            "move computations to a sibling module and import it in the method; import types under `if TYPE_CHECKING:`",
        )

    # -- reproducibility ----------------------------------------------------------------------------------------

    def test_same_seed_gives_same_result(self, harness: Harness) -> None:
        # One run with reseeded global generators serves this test and the next one. If its result differs, a run
        # without reseeding shows which of the two fails.
        is_equal = successful_run(harness).digests == harness.reseeded_digests
        self._require_same_result(
            harness,
            harness.reseeded_digests if is_equal else harness.rerun_digests(),
            "two runs of the same task give the same bytes",
            "take every random number from a seeded generator: task.generator('name', ...), ddbench.api.seeds",
        )

    def test_result_does_not_depend_on_global_generators(self, harness: Harness) -> None:
        successful_run(harness)
        self._require_same_result(
            harness,
            harness.reseeded_digests,
            "the result does not depend on the state of the global generators",
            "pass generator=task.generator('name', ...) to every random function; "
            "build networks with ddbench.nn.build_network",
        )

    def test_another_process_gives_same_result(self, harness: Harness) -> None:
        successful_run(harness)
        digests = harness.subprocess_digests
        if digests is None:
            pytest.skip("another process cannot import its class: move it to the top level of a module in a package")
        self._require_same_result(
            harness,
            digests,
            "another process that builds the units in another order gives the same bytes",
            "keep no state in modules, classes or closures; do not use hash(), id() or the order of a set",
        )

    def test_global_state_is_unchanged(self, harness: Harness) -> None:
        changed = successful_run(harness).global_changes
        require(
            not changed,
            "global generators, torch's defaults and modes are unchanged",
            f"{harness.name} changes {', '.join(changed)}",
            "use task.generator instead of global seeds, and context managers for modes",
        )

    def test_interrupted_run_gives_same_result(self, harness: Harness) -> None:
        successful_run(harness)
        digests, interrupter = harness.interrupted
        if interrupter.reports and not interrupter.saves:
            digests, _ = harness.interrupted_run("report")
        require(
            interrupter.loads > 0 or interrupter.saves == 0,
            "a resumed run continues from its checkpoint",
            f"{harness.name} saves to task.checkpoint and never loads from it",
            "start with task.checkpoint.load(), which returns None if there is no checkpoint",
        )
        self._require_same_result(
            harness,
            digests,
            "a run that is killed and resumed gives the same bytes",
            "save the whole state of the loop (step, optimiser, images); seed random numbers by step",
        )

    def test_results_change_only_with_the_version(self, harness: Harness, pytestconfig: pytest.Config) -> None:
        """Warns once if edited code gives other results under the same version; pytest's cache holds the last ones."""
        cache = getattr(pytestconfig, "cache", None)
        if cache is None:
            pytest.skip("pytest keeps no results of the last run: its plugin cacheprovider is off")
        current = {"source": harness.source, "results": successful_run(harness).digests}
        name = f"ddbench/{harness.key}"
        last = cache.get(name, current)
        cache.set(name, current)
        if last["source"] != current["source"] and last["results"] != current["results"]:
            warnings.warn(
                f"{harness.name}: its source and its results have changed since the last run of this test, but not its "
                f"version {harness.subject.version!r}: raise `version` if results of the old code are kept",
                stacklevel=1,
            )

    def _require_same_result(self, harness: Harness, digests: Mapping[str, str], requirement: str, fix: str) -> None:
        different = changed_names(successful_run(harness).digests, digests)
        require(not different, requirement, f"{harness.name}: {_abbreviate(different)} differ", fix)

    # -- teacher and device -------------------------------------------------------------------------------------

    def test_undeclared_teacher_is_not_used(self, harness: Harness) -> None:
        message = ""
        try:
            _ = harness.first
        except DDBenchError as error:
            message = str(error) if "needs_teacher = False" in str(error) else ""
        require(
            not message,
            "a class with needs_teacher = False does not use the teacher",
            message,
            "set needs_teacher = True, or do not use task.teacher and task.statistics",
        )

    def test_shared_objects_are_unchanged(self, harness: Harness) -> None:
        changed = finished_run(harness).shared_changes
        require(
            not changed,
            "teacher, data and distilled set are unchanged: weights, modes, gradients, hooks, labels, mean",
            f"{harness.name} changes {', '.join(changed)}",
            "write into copies, remove hooks in try/finally, do not train the teacher, differentiate only images",
        )

    def test_memory_is_released(self, harness: Harness) -> None:
        successful_run(harness)
        require(
            not harness.other_seed.leaked,
            "a finished run keeps no tensors in memory",
            f"{harness.name} keeps {harness.other_seed.leaked}",
            "keep no tensors in modules, classes or closures that outlive the task",
        )


@functools.lru_cache(maxsize=2)
def _cached_harness(kit: type[Conformance], folder: Path) -> Harness:
    return kit.harness_in(folder)


def successful_run(harness: Harness) -> Run:
    """Returns the run that other runs are compared with.

    Args:
        harness: The harness of the subject.

    Returns:
        The run. The current test fails if the run ends in an error, or changes an object that cells share.
    """
    run = finished_run(harness)
    if run.shared_changes:
        fail("a run changes no shared object", f"{harness.name} changes {', '.join(run.shared_changes)}", "copy it")
    return run


def finished_run(harness: Harness) -> Run:
    """Returns the run that other runs are compared with. If this run ends in an error, the current test fails."""
    try:
        return harness.first
    except DDBenchError as error:
        fail("a small run on the test dataset succeeds", str(error), "see the message")


def entry_modules(cls: type) -> tuple[str, ...]:
    """Finds the modules that ddbench imports to load a class.

    Args:
        cls: A class of a plugin.

    Returns:
        Names of the entry points of ddbench in the top-level package of `cls`.
    """
    package = cls.__module__.partition(".")[0]
    names = {point.module for point in metadata.entry_points(group=GROUP)}
    return tuple(sorted(name for name in names if name.partition(".")[0] == package))


@functools.cache
def _import_in_new_process(modules: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Imports modules in order.

    Returns:
        The process. Its output is a JSON list: the module that has imported torch, or "", and all modules.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", IMPORT_SCRIPT, *modules]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _accepts(subject: Distiller | Evaluator, settings: Mapping[str, object]) -> bool:
    try:
        type(subject)(**settings)
    except (ValidationError, TypeError):
        return False
    return True


def _is_assignable(subject: Distiller | Evaluator, name: str) -> bool:
    copy = subject.model_copy()
    try:
        setattr(copy, name, getattr(copy, name))
    except ValidationError:
        return False
    return True


def _abbreviate(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
