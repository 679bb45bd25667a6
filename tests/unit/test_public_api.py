"""Plugins, the template of `ddbench new-plugin` and the pages' Python use public names alone; `list` loads no torch."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PUBLIC = {
    package: frozenset(importlib.import_module(f"ddbench.{package}").__all__)
    for package in ("api", "ot", "losses", "nn", "augment", "training", "data", "testing")
}
TEMPLATE = ROOT / "ddbench" / "registry" / "template"
MODULES = [*ROOT.glob("plugins/*/ddbench_*/**/*.py"), *TEMPLATE.glob("*/*.py.txt")]
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
TORCH_FREE = ("ddbench", "ddbench.api", "ddbench.cli.main", "ddbench.registry.registry")


def private_uses(source: str) -> list[str]:
    """The uses of ddbench in a source that are not public: imported modules, and names that no `__all__` holds."""
    tree, packages, wrong = ast.parse(source), dict[str, str](), list[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wrong += [alias.name for alias in node.names if alias.name.startswith("ddbench.")]
        elif isinstance(node, ast.ImportFrom) and node.module == "ddbench":
            for alias in node.names:
                packages[alias.asname or alias.name] = alias.name
                if alias.name not in PUBLIC:
                    wrong.append(f"ddbench.{alias.name}")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ddbench."):
            public = PUBLIC.get(node.module.removeprefix("ddbench."), frozenset())
            wrong += [f"{node.module}.{alias.name}" for alias in node.names if alias.name not in public]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            package = packages.get(node.value.id)
            if package in PUBLIC and node.attr not in PUBLIC[package]:
                wrong.append(f"ddbench.{package}.{node.attr}")
    return wrong


def test_a_private_use_is_found() -> None:
    assert private_uses("from ddbench.core.seeds import generator") == ["ddbench.core.seeds.generator"]
    assert private_uses("from ddbench.ot.exact import transport_cost") == ["ddbench.ot.exact.transport_cost"]
    assert private_uses("import ddbench.nn.build") == ["ddbench.nn.build"]
    assert private_uses("from ddbench import ot\not.hidden(1)") == ["ddbench.ot.hidden"]
    assert private_uses("from ddbench import storage") == ["ddbench.storage"]
    assert private_uses("import ddbench\nfrom ddbench.ot import transport_cost\nfrom ddbench import ot") == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_plugins_and_the_template_use_public_names_alone(path: Path) -> None:
    # `$name` is a placeholder of the template.
    assert private_uses(path.read_text(encoding="utf-8").replace("$", "_")) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_python_of_the_pages_uses_public_names_alone(path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert [use for block in blocks for use in private_uses(block)] == []


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_is_there(package: str) -> None:
    module = importlib.import_module(f"ddbench.{package}")
    assert [name for name in PUBLIC[package] if not hasattr(module, name)] == []


def test_torch_is_not_loaded() -> None:
    code = f"import sys, {', '.join(TORCH_FREE)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
