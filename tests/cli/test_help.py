"""The help of every command: whole sentences that fit 80 columns, and a text for every option."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
import pytest

from ddbench.cli.main import cli

if TYPE_CHECKING:
    from conftest import Shell


def all_commands(command: click.Command = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command and group with its words, e.g. `cache ls`; the top-level group has none."""
    yield " ".join(path), command
    for name, sub in getattr(command, "commands", {}).items():
        yield from all_commands(sub, (*path, name))


COMMANDS = dict(all_commands())


@pytest.mark.parametrize("words", COMMANDS)
def test_help_fits_80_columns_without_cuts(words: str, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outcome = shell(*words.split(), "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    assert not [line for line in outcome.out.splitlines()[1:] if line.endswith("...")]


@pytest.mark.parametrize("words", COMMANDS)
def test_help_names_every_option_and_command(words: str, shell: Shell) -> None:
    text = shell(*words.split(), "--help").out
    for parameter in COMMANDS[words].params:
        assert not isinstance(parameter, click.Option) or all(name in text for name in parameter.opts)
    for name in getattr(COMMANDS[words], "commands", {}):
        assert re.search(rf"^  {name} ", text, re.MULTILINE)


@pytest.mark.parametrize("words", COMMANDS)
def test_help_is_written_in_sentences(words: str) -> None:
    command = COMMANDS[words]
    first, *_ = (command.help or "").split("\n\n")
    assert re.fullmatch(r"[A-Z].*\.", first.strip(), re.DOTALL)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert re.fullmatch(r".+\.", parameter.help or "", re.DOTALL), f"{words} {parameter.name}: {parameter.help}"
