"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from ddbench.cli.main import cli
from ddbench.storage.cache import Cache
from ddbench.storage.checkpoint import Checkpoint


@pytest.mark.parametrize("folder", ["elsewhere", ""])
def test_the_default_cache_is_in_xdg_cache_home(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(_: Checkpoint) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
        return {}, {}

    monkeypatch.delenv("DDBENCH_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / folder) if folder else "")
    root = tmp_path / folder if folder else tmp_path / "home" / ".cache"
    artifact = Cache(root / "ddbench").get("teacher", {"arch": "resnet18"}, build)
    assert artifact.key in CliRunner().invoke(cli, ["cache", "ls"]).output


def test_a_folder_whose_name_looks_like_a_url_can_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cli, ["cache", "ls", "--cache-dir", "./s3:/bucket"]).exit_code == 0
