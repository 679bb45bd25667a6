"""The software that computes a result: package versions and the git commit."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from ddbench.core import versions as core_versions

PACKAGES = ("ddbench", "torch", "torchvision", "timm", "POT", "numpy", "pydantic", "safetensors", "pillow")
"""Packages whose versions are recorded."""
NUMERICAL_PACKAGES = {"torch": "PyTorch", "POT": "POT"}
"""Packages whose versions change numbers and are in no key, with their titles."""


def provenance() -> dict[str, Any]:
    """Describes the current computation.

    Returns:
        `created` (UTC, ISO 8601); `versions` of Python, PACKAGES and `ddbench.core.versions`; `git_commit`.
    """
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "git_commit": git_commit(),
    }


def build_facts(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Returns how and when an artifact was built.

    Args:
        meta: The metadata of the artifact.

    Returns:
        `conditions` that change its numbers but are not in its key: versions of PyTorch and POT, threads, processes,
        distribution and digest of the code (`registry.source`); the `seconds` of the build; and when it was `created`.
    """
    built_with, device = meta["made"]["versions"], meta["device"]
    conditions = {
        **{package: built_with.get(package) for package in NUMERICAL_PACKAGES},
        "threads": device.get("threads"),
        "processes": device.get("processes", 1),
        **meta.get("source", {}),
    }
    return {
        "conditions": conditions,
        "seconds": meta["cost"]["seconds"],
        "created": meta["made"]["created"],
    }


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Returns the versions of Python, PACKAGES and `ddbench.core.versions`, by name."""
    versions_of = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions_of[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    names = sorted(name for name in vars(core_versions) if name.isupper())
    versions_of["numerics"] = " ".join(f"{name.lower()}={getattr(core_versions, name)}" for name in names)
    return versions_of


@lru_cache(maxsize=1)
def git_commit() -> str | None:
    """Returns the commit of the checkout that ddbench runs from, or None.

    A "+" after the commit means that tracked files are modified.
    """
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
