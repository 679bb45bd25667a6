"""The command line of a machine on which the packages of methods are not installed."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from conftest import FAST
from ddbench.registry.registry import GROUP, PluginRegistry

if TYPE_CHECKING:
    from conftest import Shell

REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "imagenette-64px"
RANDOM = ("run", "--method", "random", "--dataset", "digits", "--ipc", "1")
IN_WMDD = "is in the package ddbench-wmdd, which is not installed here"


@contextlib.contextmanager
def core_alone() -> Iterator[None]:
    """In the block, the program has the core alone."""
    points = [point for point in metadata.entry_points(group=GROUP) if point.dist and point.dist.name == "ddbench"]
    with mock.patch("ddbench.cli.main.PluginRegistry", side_effect=functools.partial(PluginRegistry, points)):
        yield


@pytest.fixture
def bare(shell: Shell) -> Iterator[Shell]:
    """A shell whose program has the core alone."""
    with core_alone():
        yield shell


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--method", "wmdd", "--dataset", "digits", "--ipc", "1"), f"method 'wmdd' {IN_WMDD}"),
        ((*RANDOM, "--recipe", "tuned"), f"recipe 'tuned' {IN_WMDD}"),
        ((*RANDOM, "--recipe", "smoke", "--set", "wmdd.steps=3"), f"--set wmdd.steps=3: method 'wmdd' {IN_WMDD}"),
        (("table", "comparison", "--recipe", "tuned", "--dry-run", "--dataset", "digits"), f"recipe 'tuned' {IN_WMDD}"),
        (("table", "comparison", "--methods", "wmdd"), f"method 'wmdd' {IN_WMDD}"),
        (("table", "ablation"), f"table 'ablation' {IN_WMDD}"),
        (("list", "methods", "wmdd"), f"method 'wmdd' {IN_WMDD}"),
        (("list", "recipes", "tuned"), f"recipe 'tuned' {IN_WMDD}"),
    ],
)
def test_the_package_to_install_is_named(bare: Shell, arguments: tuple[str, ...], message: str) -> None:
    bare(*arguments).refused(f"ddbench: {message}")
    assert bare.files() == {}


def test_tables_keep_published_rows_and_name_the_methods_whose_records_they_do_not_show(bare: Shell) -> None:
    outcome = bare("table", "comparison", "--dataset", "imagenette", "--results-dir", REFERENCE)
    assert outcome.code == 0, outcome.err
    assert re.search(r"^wmdd +40\.2 ± 0\.6 +64\.8 ± 0\.4", outcome.out, re.MULTILINE)
    (line,) = [line for line in outcome.errors if line.startswith("not shown: ")]
    methods = "cda, dc, dm, dm-rbf, dsa, gvbsm, scdd, sre2l, wmdd, wmdd-sliced"
    assert line == f"not shown: records of {methods}: not installed here"


@pytest.mark.slow
def test_the_set_of_a_method_that_is_no_longer_installed_is_evaluated(shell: Shell) -> None:
    shell.run("--method", "dm", "--dataset", "digits", "--ipc", "1", "--evaluator", "hard", "--set", "dm.steps=2")
    (made,) = (shell.results / "records").iterdir()
    options = (*FAST, "--dataset", "digits", "--evaluator", "hard", "--no-random")
    with core_alone():
        shell("repeat", made).refused("method 'dm' is in the package ddbench-dm, which is not installed here")
        outcome = shell("evaluate", made.stem, *options)
    assert outcome.code == 0, outcome.err
    (given,) = (shell.results / "records").glob("given*")
    first, again = (json.loads(path.read_text()) for path in (made, given))
    assert (first["distilled_digest"], first["metrics"]) == (again["distilled_digest"], again["metrics"])
