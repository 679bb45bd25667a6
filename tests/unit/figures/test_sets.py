"""The distilled sets of a figure: of one kind, not too many, and what is said where one is missing."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest

from ddbench.figures import sets

if TYPE_CHECKING:
    from conftest import Shell


def test_what_is_missing_is_said_with_the_command_that_makes_it(copied: Shell) -> None:
    shutil.rmtree(copied.cache / "teacher")
    lost = copied("figure", "embedding")
    assert lost.code == 2
    assert "figure 'embedding' needs the teacher" in lost.errors[-1]
    assert "ddbench run --method" in lost.errors[-1]
    shutil.rmtree(copied.cache / "distill")
    lost = copied("figure", "grid", "--methods", "wmdd")
    assert lost.code == 2
    assert re.fullmatch(
        r"ddbench: the set of wmdd-digits-ipc2-\w+ is not in the cache; reproduce it: ddbench run --method wmdd"
        r" --dataset digits --ipc 2 --student \S+ --evaluator \w+ --recipe smoke --image-size 8"
        r" .*--set method.bn_weight=(1|50).0.*",
        lost.errors[-1],
    )


def test_one_lost_set_of_several_is_left_out_and_said(copied: Shell) -> None:
    record = next(
        path for path in (copied.results / "records").glob("wmdd*.json") if '"bn_weight": 50.0,' in path.read_text()
    )
    key = re.search(r'"distill": \[\s*"(\w+)"', record.read_text())
    assert key is not None
    (copied.cache / "distill" / f"{key[1]}.safetensors").unlink()
    drawn = copied("figure", "grid")
    assert drawn.code == 0, drawn.err
    assert f"left out: the set of {record.stem} is not in the cache" in drawn.errors
    svg = (copied.results / "figures" / "grid.svg").read_text(encoding="utf-8")
    assert svg.count("data:image/png") == 2
    assert ">wmdd</" in svg


def test_sets_side_by_side_are_of_one_kind(copied: Shell) -> None:
    copied.run("--method", "random", "--dataset", "digits", "--ipc", "1")
    mixed = copied("figure", "grid")
    assert mixed.errors == ["ddbench: there are records of 1, 2: choose one with --ipc"]
    assert mixed.code == 2
    assert copied("figure", "grid", "--ipc", "1").code == 0


def test_more_sets_than_can_be_told_apart_are_refused(made: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "MAX_SETS", 2)
    refused = made("figure", "grid", "--output", "none")
    assert refused.code == 2
    assert refused.errors[-1] == (
        "ddbench: 3 sets, but 2 fit side by side: choose with --methods or --recipe: "
        "random; wmdd, bn_weight 1; wmdd, bn_weight 50"
    )
    assert not (made.root / "none.svg").exists()


def test_without_records_it_says_what_to_run(shell: Shell) -> None:
    empty = shell("figure", "grid")
    assert empty.code == 2
    assert "start a run first, e.g. ddbench run" in empty.errors[-1]
