"""Runs single tests of the conformance kit and returns their messages."""

import functools
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator
from ddbench.testing import DistillerConformance, EvaluatorConformance
from ddbench.testing.conformance import Conformance
from ddbench.testing.harness import Harness


@dataclass(frozen=True)
class Checker:
    """Runs tests of conformance classes. All share the teachers in `folder`, and `cache` in place of pytest's."""

    folder: Path
    cache: pytest.Cache

    @staticmethod
    def kit(subject: Distiller | Evaluator, **attributes: object) -> type[Conformance]:
        """The conformance class that a plugin author would write."""
        if isinstance(subject, Distiller):
            return type("Kit", (DistillerConformance,), {"distiller": subject, **attributes})
        return type("Kit", (EvaluatorConformance,), {"evaluator": subject, "ipc": 1, **attributes})

    @staticmethod
    def tests(kit: type[Conformance]) -> set[str]:
        """The names of its tests without `test_`."""
        return {name.removeprefix("test_") for name in dir(kit) if name.startswith("test_")}

    def check(self, kit: type[Conformance], test: str) -> None:
        """Runs one test."""
        function = getattr(kit(), f"test_{test}")
        parameters = inspect.signature(function).parameters
        arguments: dict[str, object] = {}
        if "harness" in parameters:
            arguments["harness"] = harness_of(kit, self.folder)  # type: ignore[arg-type]  # mypy: not hashable
        if "pytestconfig" in parameters:
            arguments["pytestconfig"] = SimpleNamespace(cache=self.cache)
        function(**arguments)

    def failure(self, kit: type[Conformance], test: str) -> str:
        """The message of a test that must fail, in one line."""
        with pytest.raises(pytest.fail.Exception) as caught:
            self.check(kit, test)
        return " ".join(str(caught.value).split())


@functools.lru_cache(maxsize=1)
def harness_of(kit: type[Conformance], folder: Path) -> Harness:
    """The harness of a conformance class, shared by its tests."""
    return kit.harness_in(folder)


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Checker:
    """A checker with an empty folder."""
    cache = pytest.Cache(tmp_path_factory.mktemp("pytest_cache"), pytestconfig, _ispytest=True)
    return Checker(tmp_path_factory.mktemp("kit"), cache)


@pytest.fixture(autouse=True)
def _restore_state() -> Iterator[None]:
    """Restores the state that broken methods change."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)
