"""`ddbench doctor`: what ddbench has on this machine, and what is broken."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddbench.api.dataset import MissingDataError, default_data_dir
from ddbench.cli import options
from ddbench.core.errors import DDBenchError, exception_line
from ddbench.core.files import expand_user
from ddbench.core.text import counted
from ddbench.core.text_layout import format_facts, terminal_width
from ddbench.registry.hooks import CORE

if TYPE_CHECKING:
    from ddbench.registry.registry import PluginRegistry

EXTRA = re.compile(r"""([\w.-]+).*extra == ['"](\w+)['"]""")
"""A requirement of an extra in the metadata of a distribution."""


@options.command("doctor")
@options.data
@options.cache
@click.pass_obj
def doctor_command(registry: PluginRegistry, data_dir: Path | None, cache_dir: Path | str) -> None:
    """Checks the installation.

    Prints versions, device, cache, datasets and plugins. The exit code is 1 if something is broken: the device does not
    compute, the cache cannot be written, the data folder does not exist, a dataset cannot be read, or a plugin cannot
    be loaded.
    """
    problems = list(registry.failures)
    facts = [
        *_software(),
        ("device", _device(problems)),
        ("cache", _cache(cache_dir, problems)),
        ("data", _datasets(registry, data_dir, problems)),
        *(("plugin", text) for text in _plugins(registry)),
        *(("broken", problem) for problem in problems),
    ]
    click.echo(format_facts(facts, terminal_width()))
    if problems:
        sys.exit(1)


def _software() -> Iterator[tuple[str, str]]:
    from ddbench.results import provenance

    versions = provenance.versions()
    yield "ddbench", f"{versions['ddbench']}{f', commit {commit}' if (commit := provenance.git_commit()) else ''}"
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items() if name != "ddbench")
    extras: dict[str, list[str]] = {}
    for match in filter(None, map(EXTRA.match, metadata.requires(CORE) or ())):
        extras.setdefault(match[2], []).append(_version(match[1]))
    complete = [name for name, versions in extras.items() if all(versions)]
    yield "extras", ", ".join(complete) or "none"
    yield "absent", ", ".join(name for name in extras if name not in complete)


def _version(distribution: str) -> str:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(distribution)
    return ""


def _device(problems: list[str]) -> str:
    import torch

    from ddbench.config.schema import RuntimeConfig
    from ddbench.nn import device as devices

    try:
        runtime = devices.resolve(RuntimeConfig())
        device = torch.device(runtime.device)
        torch.ones(2, 2, device=device).matmul(torch.ones(2, 2, device=device)).cpu()
        name = devices.describe(device)["name"]
    except Exception as error:
        problems.append(f"the device does not compute: {exception_line(error)}")
        return ""
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    several = f", {count} of them" if count > 1 else ""
    threads = counted(devices.default_threads(device), "thread")
    return f"{device.type}: {name}{several}, {threads}, {runtime.precision}"


def _cache(location: Path | str, problems: list[str]) -> str:
    try:
        entries = options.open_cache(location).entries()
    except (DDBenchError, OSError) as error:
        problems.append(f"the cache cannot be read: {exception_line(error)}")
        return str(location)
    size = sum(entry["bytes"] for entry in entries) / 2**20
    text = f"{location}: {counted(len(entries), 'file')}, {size:.1f} MB"
    if not isinstance(location, Path):
        return text
    folder = location
    while not folder.exists():
        folder = folder.parent
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        problems.append(f"the cache cannot be written: {folder}; choose another folder with --cache-dir")
    return f"{text}, {shutil.disk_usage(folder).free / 2**30:.1f} GB free"


def _datasets(registry: PluginRegistry, data_dir: Path | None, problems: list[str]) -> str:
    folder = expand_user(data_dir or default_data_dir())
    if data_dir and not folder.is_dir():
        problems.append(f"the data folder {folder} does not exist; correct --data-dir or DDBENCH_DATA")
    names = []
    for spec in registry.datasets():
        try:
            with registry.attribute_errors("dataset", spec.name):
                spec.open(data_dir)
            names.append(spec.name)
        except MissingDataError:
            continue
        except DDBenchError as error:
            problems.append(f"dataset {spec.name}: {error}")
    return f"{folder}: {', '.join(names)}"


def _plugins(registry: PluginRegistry) -> Iterator[str]:
    counts: dict[str, Counter[str]] = {}
    for kind, name in registry.names():
        counts.setdefault(registry.distribution_of(kind, name), Counter())[kind] += 1
    for owner, kinds in sorted(counts.items()):
        yield f"{owner} {_version(owner)}".strip() + f": {', '.join(counted(n, kind) for kind, n in kinds.items())}"
