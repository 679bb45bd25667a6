"""`ddbench cache`: what is listed, and what is removed."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Finished


def test_cache_ls_has_a_line_a_file(finished: "Finished") -> None:
    outcome = finished.shell("cache", "ls")
    listed = {(row["stage"], row["key"]) for row in outcome.rows}
    files = {(Path(name).parent.name, Path(name).stem) for name in finished.shell.files("cache")}
    assert listed == files
    assert f"{len(files)} files" in outcome.out.splitlines()[-1]


@pytest.mark.slow
def test_prune_removes_what_is_asked_and_the_rest_is_computed_again(finished: "Finished", tmp_path: Path) -> None:
    shutil.copytree(finished.shell.root, tmp_path, dirs_exist_ok=True)
    shell = type(finished.shell)(tmp_path)
    assert shell("cache", "prune", "--older-than", "1").out.startswith("removed 0 files")
    before = shell.files("cache")
    assert shell("cache", "prune", "--stage", "evaluate", "--stage", "distill").out.startswith("removed 8 files")
    gone = {Path(name).parent.name for name in before.keys() - shell.files("cache").keys()}
    assert gone == {"evaluate", "distill"}
    again = shell.run(*finished.grid)
    numbers = [row["top-1 (last epoch)"] for row in again.rows]
    assert numbers == [row["top-1 (last epoch)"] for row in finished.first.rows]
    assert shell.files("cache").keys() == before.keys()
    refused = shell("cache", "prune")
    assert (refused.code, len(refused.errors)) == (2, 1)
    shell("cache", "prune", "--older-than", "0")
    assert shell.files("cache") == {}
