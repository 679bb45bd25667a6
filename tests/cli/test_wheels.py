"""The wheels of all packages, with their licence, installed into an empty environment outside the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(path.parent.name for path in (ROOT / "plugins").glob("*/pyproject.toml"))


def run(*command: object, folder: Path) -> str:
    """Runs a command that sees nothing of the repository; returns its output."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        capture_output=True,
        text=True,
        env={**environment, "HOME": str(folder), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of an environment with the wheels, and with the packages that they need."""
    folder = tmp_path_factory.mktemp("wheels")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "build", "--quiet", "--all-packages", "-o", folder / "dist"], cwd=ROOT, check=True)
    wheels = sorted((folder / "dist").glob("*.whl"))
    assert [wheel.name.split("-")[0] for wheel in wheels] == ["ddbench", *(f"ddbench_{name}" for name in PLUGINS)]
    for wheel in wheels:
        name = "-".join(wheel.name.split("-")[:2])
        with zipfile.ZipFile(wheel) as opened:
            assert opened.read(f"{name}.dist-info/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes(), name
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    subprocess.run([uv, "pip", "install", "--quiet", "--no-deps", "--python", python, *wheels], check=True)
    # Files like this one are read in the environment's own folder only, so the checkout is not on its path.
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder).strip()
    Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    where = run(
        python, "-c", "import ddbench, ddbench_wmdd; print(ddbench.__file__, ddbench_wmdd.__file__)", folder=folder
    )
    assert all(path.startswith(packages) for path in where.split())
    return folder / "env" / "bin" / "ddbench"


@pytest.mark.slow
def test_wheels_bring_recipes_templates_and_published_numbers(program: Path, tmp_path: Path) -> None:
    assert "Commands:" in run(program, "--help", folder=tmp_path)
    recipes = run(program, "list", "recipes", folder=tmp_path)
    assert all(name in recipes for name in ("paper", "quick", "smoke", "released", "tuned"))
    comparison = run(program, "table", "comparison", "--dataset", "imagenette", folder=tmp_path)
    assert "64.8" in comparison
    run(program, "new-plugin", "blur", folder=tmp_path)
    assert (tmp_path / "ddbench-blur" / "pyproject.toml").exists()


@pytest.mark.slow
def test_wheels_run_methods(program: Path, tmp_path: Path) -> None:
    run(
        *(program, "run", "--method", "wmdd", "--method", "dm", "--dataset", "digits", "--ipc", "1"),
        *("--recipe", "smoke", "--image-size", "8", "--arch", "convnet-bn-d1", "--device", "cpu"),
        *("--evaluator", "hard"),
        folder=tmp_path,
    )
    assert len(list((tmp_path / "results" / "records").glob("*.json"))) == 2


def test_the_extra_names_the_packages_of_all_plugins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extra = project["project"]["optional-dependencies"]["methods"]
    assert extra == [f"ddbench-{name}>=0.1" for name in PLUGINS]
    assert list(project["tool"]["uv"]["sources"]) == [f"ddbench-{name}" for name in PLUGINS]
