"""`ddbench table`: bad input, output files, and which libraries are loaded."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ddbench.api.hookspecs import hookimpl
from ddbench.api.table import Cell, TableSpec
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.request import Request
from ddbench.registry.registry import PluginRegistry

if TYPE_CHECKING:
    from conftest import Shell


def request_of(**fields: Any) -> Request:
    return Request(**{"methods": (), "datasets": (), "ipcs": (), **fields})


# -- the command ----------------------------------------------------------------------------------------------


def test_a_table_goes_to_a_file(shell: Shell) -> None:
    outcome = shell("table", "layers", "--format", "markdown", "--output", "new/folder/layers.md")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "written: new/folder/layers.md\n"
    text = (shell.root / "new/folder/layers.md").read_text(encoding="utf-8")
    assert text == shell("table", "layers", "--format", "markdown").out
    assert "| 18      | never run | 41.8        |" in text
    assert list(shell.files()) == ["new/folder/layers.md"]


def test_without_data_it_says_what_is_missing_and_what_it_needs(shell: Shell) -> None:
    message = "6 cells without a number; --run needs data: --dataset NAME, --data-dir FOLDER"
    assert shell("table", "layers").errors == [message]
    shown = shell("table", "layers", "--dry-run")
    assert shown.errors == []
    assert shown.out.splitlines()[2].split() == ["5", "tiny-imagenet", "10"]


def test_a_plugins_table_is_found_beside_the_others() -> None:
    registry = PluginRegistry()
    spec = TableSpec("mine", "my own", lambda request_of: [Cell("a", "random", "digits", 1)])
    registry.register(SimpleNamespace(ddbench_tables=hookimpl(lambda: [spec])), "mine")
    assert registry.table("mine") is spec
    with pytest.raises(DDBenchError, match="unknown table 'mien'; did you mean 'mine'"):
        registry.table("mien")


def test_help_and_list_import_neither_torch_nor_pandas() -> None:
    code = """
        import contextlib, io, sys
        from ddbench.cli.main import main
        for words in ("--help", "table --help", "list tables", "list tables ablation"):
            sys.argv = ["ddbench", *words.split()]
            with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.suppress(SystemExit):
                main()
            assert len(told.getvalue()) > 100, words
        print(sorted({"torch", "pandas", "numpy", "matplotlib"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
