"""The page on the architecture lists every module."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ddbench"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"^### ([^\n]*)\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL)


def listed(package: str) -> set[str]:
    """The names in the first column of the tables whose heading names the package."""
    tables = [text for title, text in SECTIONS if package in re.split(r", | and ", title)]
    cells = [line.split("|")[1] for text in tables for line in text.splitlines() if line.startswith("| `")]
    return {name.removeprefix(f"{package}.") for cell in cells for name in re.findall(r"`(.+?)`", cell)}


@pytest.mark.parametrize("package", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_every_module_of_a_package_is_listed(package: str) -> None:
    """Of modules in a folder, the folder is listed, e.g. `stages/`."""
    paths = [path.relative_to(PACKAGE / package) for path in (PACKAGE / package).rglob("*.py")]
    modules = {f"{path.parts[0]}/" if len(path.parts) > 1 else path.stem for path in paths}
    modules -= {"__init__", "__main__"}
    assert modules
    assert modules - listed(package) == set()
    plain = {name for name in listed(package) if name.isidentifier()}
    if package not in ("evaluators", "methods"):  # they share a table
        assert plain - modules == set()
