"""The `ddbench run` command of a record, for figures that need other cells like it. Imports no torch."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from ddbench.config.datasets import FOLDER_PREFIX, HUB_PREFIX, hub_reference
from ddbench.config.recipes import parse_plain_yaml
from ddbench.core.canonical import canonical_json
from ddbench.results.records import Record

_DIGEST = re.compile(r"@[0-9a-f]{8}$")
"""The end of a path among the settings of a method or protocol, as records contain it."""


def command_of(record: Record, *, method: str = "", ipcs: Sequence[int] = (), settings: Sequence[str] = ()) -> str:
    """Returns the command that reproduces a record, with the same cache keys.

    A set or student with a number above 0 is one of the grid that the command runs. A record contains no paths: see
    `inputs_of`. The measures of the record, which no figure needs, are left out.

    Args:
        record: The record.
        method: Another method; the record's settings of its method are then left out.
        ipcs: Other numbers of images per class.
        settings: Further arguments of `--set`.

    Returns:
        The command, quoted for a shell.
    """
    configuration = record.configuration
    if not ipcs and record.ipc is not None:
        ipcs = (record.ipc,)
    options: list[tuple[str, object]] = [("method", method or record.method), ("dataset", record.dataset)]
    options += [("ipc", ipc) for ipc in ipcs]
    options += [("student", record.student), ("evaluator", record.evaluator)]
    files = configuration.get("recipe_files", {})
    options += [("recipe", files.get(name, name)) for name in record.recipes]
    if "data.image_size" not in configuration.get("changed", ()):
        options.append(("image-size", record.image_size))
    options.append(("arch", configuration["teacher"].get("arch")))
    numbers = (("seed", record.seed, 0), ("seeds", record.student_seed + 1, 1), ("repeats", record.repeat + 1, 1))
    options += [(name, value) for name, value, default in numbers if value != default]
    options += [(name, configuration["runtime"].get(name)) for name in ("device", "precision", "compile")]
    assignments = dict(_changed(configuration, with_method=method in ("", record.method)))
    assignments |= {path: value for path, _, value in (text.partition("=") for text in settings)}
    options += [("set", f"{path}={value}") for path, value in assignments.items()]
    words = [word for name, value in options if value is not None for word in (f"--{name}", str(value))]
    return shlex.join(["ddbench", "run", *words])


def inputs_of(record: Record) -> str:
    """Returns what a repetition of a record needs besides the installed datasets; empty if it needs nothing.

    Args:
        record: The record.
    """
    teacher = record.configuration["teacher"]
    files = [*record.configuration.get("recipe_files", {}).values(), teacher.get("checkpoint"), teacher.get("classes")]
    names = [name for name in files if name]
    for section in ("method_settings", "evaluator_settings"):
        names += _paths_in(record.configuration.get(section))
    needs = [f"{', '.join(names)} in the working directory"] if names else []
    if record.dataset.startswith(FOLDER_PREFIX):
        folder = record.dataset.removeprefix(FOLDER_PREFIX).partition("@")[0]
        needs.append(f"--data-dir: the folder that contains the image folder {folder}")
    if record.dataset.startswith(HUB_PREFIX) and (folder := hub_reference(record.dataset).folder or ""):
        needs.append(f"--data-dir: the folder that contains the folder {folder}")
    return "; ".join(needs)


def _changed(configuration: dict[str, Any], with_method: bool) -> Iterator[tuple[str, str]]:
    changed = dict.fromkeys(configuration.get("changed", ()))
    if "data.image_size" in changed:  # the stored size may have been scaled with an earlier image size
        changed["data.stored_size"] = None
    for path in changed:
        section, _, name = path.partition(".")
        values = configuration.get(f"{section}_settings") or configuration.get(section) or {}
        if name in values and (with_method or section != "method"):
            is_plugins = f"{section}_settings" in configuration
            yield path, _value(_without_digests(values[name]) if is_plugins else values[name])


def _paths_in(value: object) -> list[str]:
    """Returns the names of the files and folders among settings."""
    if isinstance(value, str):
        return [_DIGEST.sub("", value)] if _DIGEST.search(value) else []
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [name for part in parts for name in _paths_in(part)]


def _without_digests(value: object) -> object:
    if isinstance(value, str):
        return _DIGEST.sub("", value)
    if isinstance(value, dict):
        return {name: _without_digests(part) for name, part in value.items()}
    return [_without_digests(part) for part in value] if isinstance(value, list) else value


def _value(value: object) -> str:
    """Writes a value as `--set` reads it. Text that would be read as another value is quoted."""
    if isinstance(value, str):
        try:
            if parse_plain_yaml(value) == value:
                return value
        except ValueError:
            pass
    return canonical_json(value)
