"""Single tests of the conformance kit, as pytest would run them, and what they say."""

import functools
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator
from ddbench.testing import DistillerConformance, EvaluatorConformance
from ddbench.testing.bench import Bench
from ddbench.testing.promises import Conformance


@dataclass(frozen=True)
class Checker:
    """Runs tests of conformance classes; those that need a teacher share the one in `folder`."""

    folder: Path

    @staticmethod
    def kit(subject: Distiller | Evaluator, **own: object) -> type[Conformance]:
        """The conformance class that its author would write; a protocol's student sees one image a class."""
        if isinstance(subject, Distiller):
            return type("Kit", (DistillerConformance,), {"distiller": subject, **own})
        return type("Kit", (EvaluatorConformance,), {"evaluator": subject, "ipc": 1, **own})

    @staticmethod
    def tests(kit: type[Conformance]) -> set[str]:
        """The names of its tests, without `test_`."""
        return {name.removeprefix("test_") for name in dir(kit) if name.startswith("test_")}

    def check(self, kit: type[Conformance], test: str) -> None:
        """Runs one test."""
        function = getattr(kit(), f"test_{test}")
        if not inspect.signature(function).parameters:
            function()
            return
        function(bench_of(kit, self.folder))  # type: ignore[arg-type]  # mypy: a class cannot be hashed

    def complaint(self, kit: type[Conformance], test: str) -> str:
        """What one test says against its subject, in a line. Fails where it says nothing."""
        with pytest.raises(pytest.fail.Exception) as caught:
            self.check(kit, test)
        return " ".join(str(caught.value).split())


@functools.lru_cache(maxsize=1)
def bench_of(kit: type[Conformance], folder: Path) -> Bench:
    """The bench of the kit that is being checked: what one test has run, the next need not run again."""
    return kit.bench_in(folder)


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Checker:
    """A checker with a folder of its own."""
    return Checker(tmp_path_factory.mktemp("kit"))


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    """What broken methods do to this process."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)
