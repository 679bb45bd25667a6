"""`ddbench new-plugin`: a package with one method or protocol that works, its tests, and how to go on."""

from __future__ import annotations

import contextlib
import re
import tempfile
from importlib import metadata, resources
from pathlib import Path
from string import Template
from typing import Literal

from ddbench.core.errors import DDBenchError
from ddbench.core.files import translate_os_errors
from ddbench.registry.registry import PluginRegistry

Kind = Literal["method", "evaluator"]

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")  # typed on command lines, and a part of file names
SUFFIX = {"method": "Method", "evaluator": "Protocol"}  # no name of a class hides another one then
RUN = {
    "method": "ddbench run --method {name} --dataset digits --ipc 1 --recipe smoke",
    "evaluator": "ddbench run --evaluator {name} --method random --dataset digits --ipc 1 --recipe smoke",
}


def new_plugin(registry: PluginRegistry, name: str, kind: Kind, output: Path) -> Path:
    """Writes `output`/ddbench-NAME, whole or not at all, and returns it.

    Raises DDBenchError, one line: a name that cannot be one or is taken, a folder that is there already.
    """
    distribution = f"ddbench-{name}"
    _check_name(registry, name, kind, distribution)
    target = output / distribution
    if target.exists():
        raise DDBenchError(f"new-plugin: {target} is there already: take another name or another --output")
    words = {
        "name": name,
        "kind": kind,
        "distribution": distribution,
        "package": distribution.replace("-", "_"),
        "class_name": "".join(part.capitalize() for part in name.split("-")) + SUFFIX[kind],
        "run": RUN[kind].format(name=name),
    }
    with translate_os_errors(target):
        _write(target, output, words, kind)
    return target


def _write(target: Path, output: Path, words: dict[str, str], kind: Kind) -> None:
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ddbench-", dir=output) as place:
        folder = Path(place) / target.name
        for path, template in {
            "pyproject.toml": "pyproject.toml",
            "README.md": "README.md",
            f"{words['package']}/__init__.py": f"{kind}/__init__.py",
            "tests/test_conformance.py": f"{kind}/test_conformance.py",
        }.items():
            text = (resources.files("ddbench.registry") / "template" / f"{template}.txt").read_text(encoding="utf-8")
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(Template(text).substitute(words), encoding="utf-8")
        folder.rename(target)


def _check_name(registry: PluginRegistry, name: str, kind: Kind, distribution: str) -> None:
    if not NAME.fullmatch(name):
        raise DDBenchError(f"new-plugin: '{name}' is no name: lower-case letters, digits and dashes, a letter first")
    known = registry.distillers() if kind == "method" else registry.evaluators()
    if name in {cls.name for cls in known}:
        owner = registry.distribution_of(kind, name)
        raise DDBenchError(f"new-plugin: {kind} '{name}' is in {owner} already: take another name")
    with contextlib.suppress(metadata.PackageNotFoundError):
        metadata.distribution(distribution)
        raise DDBenchError(f"new-plugin: {distribution} is installed already: take another name")
