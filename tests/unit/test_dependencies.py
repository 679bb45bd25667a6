"""What the pyproject.toml files ask for: every package that is imported, from a version that has what the code uses.

`make test-lowest` runs this with the lowest versions.
"""

from __future__ import annotations

import ast
import inspect
import os
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECTS = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]


def requirements(project: Path) -> list[Requirement]:
    """The requirements of a project: its own, and those of its extras and its tests."""
    content: dict[str, Any] = tomllib.loads(project.read_text())
    groups = [content["project"]["dependencies"], *content["project"].get("optional-dependencies", {}).values()]
    groups.append(content.get("dependency-groups", {}).get("test", []))
    return [Requirement(text) for group in groups for text in group]


def imported(folder: Path) -> set[str]:
    """The packages that the modules below a folder import, in functions too."""
    actual: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                actual |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                actual.add(node.module.partition(".")[0])
    return actual - sys.stdlib_module_names


@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: str(project.relative_to(ROOT).parent))
def test_every_imported_package_is_declared(project: Path) -> None:
    (package,) = (path for path in project.parent.glob("ddbench*") if (path / "__init__.py").exists())
    declared = {canonicalize_name(requirement.name) for requirement in requirements(project)}
    names = packages_distributions()
    for module in imported(package) - {package.name}:
        assert declared & {canonicalize_name(name) for name in names.get(module, [module])}, (
            f"{module} is not in {project}"
        )


def lower_bound(requirement: Requirement) -> Version:
    """The version after `>=`."""
    (bound,) = [part.version for part in requirement.specifier if part.operator == ">="]
    return Version(bound)


def test_every_requirement_has_one_lower_bound() -> None:
    bounds: dict[str, set[Version]] = {}
    for project in PROJECTS:
        for requirement in requirements(project):
            bounds.setdefault(canonicalize_name(requirement.name), set()).add(lower_bound(requirement))
    assert {name: actual for name, actual in bounds.items() if len(actual) > 1} == {}


@pytest.mark.skipif(not os.environ.get("DDBENCH_LOWEST"), reason="make test-lowest")
def test_the_lowest_versions_are_installed() -> None:
    request = {
        requirement.name: lower_bound(requirement) for project in PROJECTS for requirement in requirements(project)
    }
    releases = {name: Version(version(name)).release for name in request}
    assert {
        name: actual
        for name, actual in releases.items()
        if actual[: len(request[name].release)] != request[name].release
    } == {}


def test_pytorch_has_what_the_code_uses() -> None:
    """2.4 lacks the first two; a probe that is missing would choose another precision, and so other keys."""
    assert callable(torch.nn.Module.set_submodule)
    assert torch.cpu._is_avx512_bf16_supported() in (True, False)
    assert "including_emulation" in inspect.signature(torch.cuda.is_bf16_supported).parameters
    assert callable(torch.serialization.safe_globals)
