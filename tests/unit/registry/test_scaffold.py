"""`ddbench new-plugin`: what it writes is built, installed beside ddbench in an empty environment, run and removed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddbench.registry.registry import PluginRegistry
from ddbench.registry.scaffold import NAME, new_plugin
from ddbench.results import published

ROOT = Path(__file__).parents[3]
OFFLINE = re.compile(r"error sending request|[Cc]ould not connect|dns error|timed out|[Cc]onnection (refused|reset)")


@given(name=st.from_regex(NAME, fullmatch=True).filter(lambda name: len(name) < 40), evaluator=st.booleans())
def test_every_name_gives_code_that_is_sound(name: str, evaluator: bool) -> None:
    kind: Literal["method", "evaluator"] = "evaluator" if evaluator else "method"
    with tempfile.TemporaryDirectory() as place:
        folder = new_plugin(PluginRegistry(()), name, kind, Path(place))
        package = f"ddbench_{name.replace('-', '_')}"
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        assert (project["name"], project["entry-points"]["ddbench"]) == (f"ddbench-{name}", {name: package})
        modules = [path.read_text() for path in folder.rglob("*.py")]
        assert len(modules) == 2
        for text in modules:
            compile(text, name, "exec")
            assert "$" not in text
        actual: dict[str, Any] = {}
        exec((folder / package / "__init__.py").read_text(), actual)
        (cls,) = actual["ddbench_evaluators" if evaluator else "ddbench_distillers"]()
        assert cls.name == name
        assert f"import {cls.__name__}\n" in (folder / "tests" / "test_conformance.py").read_text()


# -- built, installed, run, broken, removed -----------------------------------------------------------------


@dataclass(frozen=True)
class Environment:
    """An environment with ddbench and plugins from wheels, that sees everything else that is installed here."""

    folder: Path

    @property
    def packages(self) -> Path:
        """Where wheels are installed."""
        return self.folder / "env" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"

    def __call__(self, command: str, where: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a program of the environment, with nothing of this person's own."""
        words = shlex.split(command)
        kept = {name: value for name, value in os.environ.items() if not re.match("DDBENCH_|PYTHON|PYTEST_", name)}
        environment = {**kept, "HOME": str(self.folder), "XDG_CACHE_HOME": str(self.folder / "cache")}
        words[0] = str(self.folder / "env" / "bin" / words[0])
        place = self.folder / where
        return subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, check=False)

    def ddbench(self, command: str) -> str:
        """What a `ddbench` command prints; it must succeed without a word on stderr."""
        done = self(command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self, *wheels: Path) -> None:
        """Installs wheels and nothing that they depend on."""
        uv("pip", "install", "--quiet", "--offline", "--no-deps", "--python", self.folder / "env", *wheels)

    def wheel(self, source: Path) -> Path:
        """Builds the package in `source`. Skips where the build's own needs cannot be fetched."""
        place = self.folder / "wheels" / source.name
        uv("build", "--quiet", "--wheel", "--out-dir", place, source)
        (actual,) = place.glob("*.whl")
        return actual


def uv(*arguments: object) -> None:
    program = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        pytest.skip("needs uv")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode and OFFLINE.search(done.stderr):
        pytest.skip(f"no package index can be reached: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """With ddbench, and the method `blur` and the protocol `quiet` as `new-plugin` writes them."""
    environment = Environment(tmp_path_factory.mktemp("environment"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment.folder / "env"], check=True)
    # Torch and the others are linked, not copied. What ddbench is here, and other plugins, stay out of sight.
    others = environment.folder / "others"
    others.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "ddbench" not in path.name and path.suffix != ".pth":
            (others / path.name).symlink_to(path)
    (environment.packages / "others.pth").write_text(f"{others}\n")
    environment.install(environment.wheel(ROOT))
    for command in ("new-plugin blur", "new-plugin quiet --evaluator"):
        environment.ddbench(f"ddbench {command}")
    environment.install(*(environment.wheel(environment.folder / f"ddbench-{name}") for name in ("blur", "quiet")))
    return environment


def names(listing: str) -> set[str]:
    """The first words of a table's rows."""
    return {line.split()[0] for line in listing.splitlines()[2:] if line and not line.startswith(" ")}


@pytest.mark.slow
def test_the_wheel_has_the_published_numbers(environment: Environment) -> None:
    outcome = environment("python -c 'from ddbench.results import published as p; print(p.FOLDER, p.load().shape[0])'")
    expected = f"{environment.packages}/ddbench/results/published {len(published.load())}\n"
    assert outcome.stdout == expected, outcome.stderr


@pytest.mark.slow
def test_what_is_written_runs_from_its_wheel(
    environment: Environment, in_one_process: Callable[..., list[str]]
) -> None:
    where = environment("python -c 'import ddbench, ddbench_blur; print(ddbench.__file__, ddbench_blur.__file__)'")
    assert all(path.startswith(str(environment.packages)) for path in where.stdout.split()), where
    listed = names(environment.ddbench("ddbench list methods"))
    assert {"blur", "random"} <= listed
    assert "wmdd" not in listed  # it is installed here, not there
    assert "quiet" in names(environment.ddbench("ddbench list evaluators"))
    assert "real images in one distilled image" in environment.ddbench("ddbench list methods blur")
    runs = []
    for name in ("blur", "quiet"):
        readme = (environment.folder / f"ddbench-{name}" / "README.md").read_text()
        (command,) = re.findall("^ddbench run .*$", readme, re.MULTILINE)
        runs.append(command)
    done = environment(shlex.join(["python", *in_one_process(*runs)]))
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in (environment.folder / "results/records").glob("*.json")]
    assert {(record["method"], record["evaluator"]) for record in records} == {("blur", "fkd"), ("random", "quiet")}


@pytest.mark.slow(36)
def test_what_is_written_keeps_its_promises(environment: Environment) -> None:
    folders = " ".join(f"ddbench-{name}/tests" for name in ("blur", "quiet"))
    done = environment(f"python -m pytest -q --import-mode=importlib -p no:cacheprovider {folders}")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert " failed" not in done.stdout


@pytest.mark.slow
def test_a_broken_plugin_only_warns(environment: Environment) -> None:
    module = environment.packages / "ddbench_blur" / "__init__.py"
    sound = module.read_text()
    module.write_text(f"{sound}\ndef broken(:\n")
    try:
        done = environment("ddbench list methods")
    finally:
        module.write_text(sound)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("ddbench: warning: plugin 'blur' of ddbench-blur is left out: SyntaxError:")
    assert {"random", "kmeans"} <= names(done.stdout)
    assert "blur" not in names(done.stdout)


@pytest.mark.slow
def test_a_package_that_is_removed_takes_its_method_along(environment: Environment) -> None:
    uv("pip", "uninstall", "--quiet", "--python", environment.folder / "env", "ddbench-blur")
    try:
        assert "blur" not in names(environment.ddbench("ddbench list methods"))
        done = environment("ddbench run --method blur --dataset digits --ipc 1 --recipe smoke")
    finally:
        environment.install(environment.folder / "wheels" / "ddbench-blur" / "ddbench_blur-0.1.0-py3-none-any.whl")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("ddbench: unknown method 'blur'")
    assert "blur" in names(environment.ddbench("ddbench list methods"))
