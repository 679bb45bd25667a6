"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from ddbench.cli import options
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


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["digits, imagenette"], ("digits", "imagenette")),
        (["digits", "imagenette,"], ("digits", "imagenette")),
        (["digits,imagefolder:a, b/c,imagefolder:d"], ("digits", "imagefolder:a, b/c", "imagefolder:d")),
        (["imagefolder:a", "imagefolder:b,c"], ("imagefolder:a", "imagefolder:b,c")),
    ],
)
def test_datasets_are_separated_by_commas_and_paths_may_have_commas(texts: list[str], names: tuple[str, ...]) -> None:
    given = []

    @options.command()
    @options.datasets("Datasets.")
    @options.ipcs("Sizes.")
    def show(datasets: tuple[str, ...], ipcs: tuple[int, ...]) -> None:
        given.append((datasets, ipcs))

    words = [word for text in texts for word in ("--dataset", text)]
    assert CliRunner().invoke(show, [*words, "--ipc", "1, 10", "--ipc", "50"]).exit_code == 0
    assert given == [(names, (1, 10, 50))]


def commands(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield from commands(command) if isinstance(command, click.Group) else [command]


def test_a_second_value_of_an_option_that_takes_one_is_refused_in_every_command() -> None:
    """Click would ignore the first value."""
    count = 0
    for command in commands(cli):
        for option in command.params:
            if isinstance(option, click.Option) and not option.multiple and not option.is_flag:
                outcome = CliRunner().invoke(command, [option.opts[0], "1", option.opts[0], "1"])
                assert str(outcome.exception) == f"{option.opts[0]} takes one value, and is given 2 times"
                count += 1
    assert count > 50
