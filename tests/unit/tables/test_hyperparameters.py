"""The table of hyper-parameters beside the published ones."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from ddbench.results import published

if TYPE_CHECKING:
    from conftest import Shell


def test_published_hyperparameters_are_those_of_the_recipe_paper(shell: Shell) -> None:
    options = [word for dataset in published.PAPER_SIZES for word in ("--dataset", dataset)]
    outcome = shell("table", "hyperparameters", "--methods", "wmdd", "--recipe", "paper", *options, "--format", "json")
    assert outcome.code == 0, outcome.err
    lines = [line for line in json.loads(outcome.out) if line["published_value"] is not None]
    theirs = published.load("hyperparameters")
    named = theirs[theirs["ours"] != ""]
    assert len(lines) == 3 * (named["dataset"] == "all").sum() + (named["dataset"] != "all").sum()
    numbers = 0
    for line in lines:
        ours, printed = line["value"].split(", "), line["published_value"].split(", ")
        try:
            assert [float(part) for part in ours] == [float(part) for part in printed], line["row"]
            numbers += 1
        except ValueError:
            assert [part.lower() for part in ours] == [part.lower() for part in printed], line["row"]
    assert numbers == len(lines) - 3  # the optimiser's name
    digits = shell("table", "hyperparameters", "--methods", "wmdd", "--dataset", "digits")
    assert re.search(r"^wmdd.steps +300$", digits.out, re.MULTILINE)
    assert "published" not in digits.out
