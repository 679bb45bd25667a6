"""Writes the package of a new plugin: one item that works, and its tests. Imports no torch."""

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

Kind = Literal["method", "evaluator", "dataset", "table", "stage"]
"""What a new plugin can provide. That of a stage also provides a method of the same name, which uses it."""
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
"""Valid names. A name is typed on command lines and is part of file names."""
# The suffix ensures that the name of the class cannot shadow an imported name.
CLASS_SUFFIX = {"method": "Method", "evaluator": "Protocol", "stage": "Method"}
RUN_COMMANDS = {
    "method": "ddbench run --method {name} --dataset digits --ipc 1 --recipe smoke",
    "evaluator": "ddbench run --evaluator {name} --method random --dataset digits --ipc 1 --recipe smoke",
    "dataset": "ddbench run --dataset {name} --method random --ipc 1 --recipe smoke --evaluator hard",
    "table": "ddbench table {name} --dataset digits --recipe smoke --run",
    "stage": "ddbench run --method {name} --dataset digits --ipc 1 --recipe smoke --evaluator hard",
}


def new_plugin(registry: PluginRegistry, name: str, kind: Kind, output: Path) -> Path:
    """Writes the package `ddbench-NAME` of a new plugin. On failure nothing is left behind.

    Args:
        registry: The installed plugins, whose names cannot be used.
        name: The name of the item.
        kind: What the plugin provides.
        output: The folder in which the package is created. It is created if necessary.

    Returns:
        The folder of the package.

    Raises:
        DDBenchError: If the name is invalid or in use, the package's folder exists, or it cannot be written.
    """
    distribution = f"ddbench-{name}"
    _check_name(registry, name, kind, distribution)
    target = output / distribution
    if target.exists():
        raise DDBenchError(f"new-plugin: {target} exists already: choose another name or another --output")
    title = "".join(part.capitalize() for part in name.split("-"))
    substitutions = {
        "name": name,
        "kind": kind,
        "distribution": distribution,
        "package": distribution.replace("-", "_"),
        "class_name": f"{title}{CLASS_SUFFIX.get(kind, '')}",
        "stage_class": f"{title}Stage",
        "listed": "methods" if kind == "stage" else f"{kind}s",
        "run": RUN_COMMANDS[kind].format(name=name),
    }
    with translate_os_errors(target):
        _write(target, output, substitutions, kind)
    return target


def _write(target: Path, output: Path, substitutions: dict[str, str], kind: Kind) -> None:
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ddbench-", dir=output) as temporary:
        folder = Path(temporary) / target.name
        for path, template in {
            "pyproject.toml": "pyproject.toml",
            "README.md": "README.md",
            f"{substitutions['package']}/__init__.py": f"{kind}/__init__.py",
            "tests/test_conformance.py": f"{kind}/test_conformance.py",
        }.items():
            text = (resources.files("ddbench.registry") / "template" / f"{template}.txt").read_text(encoding="utf-8")
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(Template(text).substitute(substitutions), encoding="utf-8")
        folder.rename(target)


def _check_name(registry: PluginRegistry, name: str, kind: Kind, distribution: str) -> None:
    if not NAME.fullmatch(name):
        raise DDBenchError(
            f"new-plugin: '{name}' is not a valid name: use lower-case letters, digits and dashes, "
            "and begin with a letter"
        )
    kinds: tuple[Kind, ...] = ("method", "stage") if kind == "stage" else (kind,)
    for provided in kinds:
        if (provided, name) in registry.names():
            owner = registry.distribution_of(provided, name)
            raise DDBenchError(f"new-plugin: {provided} '{name}' is in {owner} already: choose another name")
    with contextlib.suppress(metadata.PackageNotFoundError):
        metadata.distribution(distribution)
        raise DDBenchError(f"new-plugin: {distribution} is installed already: choose another name")
