"""Where and with what a result is computed."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import torch

from ddbench.core import versions as core
from ddbench.results import provenance


def test_versions_are_those_of_what_is_installed() -> None:
    actual = provenance.versions()
    assert actual["torch"] == torch.__version__ or torch.__version__.startswith(actual["torch"])
    assert f"training={core.TRAINING}" in actual["numerics"].split()
    assert actual["numerics"].split() == sorted(actual["numerics"].split())


def test_the_time_is_utc() -> None:
    created = datetime.fromisoformat(provenance.provenance()["created"])
    assert created.utcoffset() == timedelta(0)
    assert datetime.now(UTC) >= created


def test_a_modified_checkout_is_marked(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    module = tmp_path / "ddbench" / "results" / "provenance.py"
    module.parent.mkdir(parents=True)
    module.touch()

    def commit() -> str | None:
        with mock.patch.object(provenance, "__file__", str(module)):
            return provenance.git_commit.__wrapped__()

    assert commit() is None
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert commit() == head
    module.write_text("changed")
    assert commit() == f"{head}+"
