"""`ddbench tune`: a search on digits from the trials to the winners on the validation images, and what it refuses."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from conftest import FAST

if TYPE_CHECKING:
    from conftest import Outcome, Shell

SEARCH = (
    *("--dataset", "digits", "--ipc", "2", "--student", "convnet-d2", "--evaluator", "hard", *FAST),
    *("--arch", "convnet-bn-d2"),
    *("--set", "wmdd.steps=3", "--set", "wmdd.iterations=1", "--repeats", "2"),
    *("--over", "method.bn_weight=0.1,10", "--over", "evaluator.epochs=1,8"),
)
METHODS = ("--method", "wmdd,kmeans,random")
RANDOM = ("tune", "--dataset", "digits", "--ipc", "1", "--method", "random", *FAST)


def records_in(shell: Shell) -> list[dict[str, Any]]:
    """Every record, in the order of their trials."""
    records = [json.loads(path.read_text()) for path in sorted((shell.results / "records").glob("*.json"))]
    return sorted(records, key=lambda record: record["trials"][0]["trial"])


def table_of(outcome: Outcome) -> list[dict[str, str]]:
    """The last table that was printed: a row for each method."""
    return outcome.__class__(outcome.code, outcome.out[outcome.out.rindex("\n\nmethod") + 2 :], "").rows


@pytest.mark.slow
def test_a_search_from_trials_to_winners(shell: Shell) -> None:
    outcome = shell("tune", *METHODS, *SEARCH)
    assert outcome.code == 0, outcome.err
    records = records_in(shell)
    trials = [record for record in records if record["configuration"]["data"]["holdout"]]
    winners = [record for record in records if not record["configuration"]["data"]["holdout"]]
    (name,) = {entry["search"] for record in records for entry in record["trials"]}
    numbers = Counter((record["method"], entry["trial"]) for record in trials for entry in record["trials"])
    assert numbers == {(method, number): 1 for method in ("wmdd", "kmeans", "random") for number in range(1, 5)}
    assert Counter(record["method"] for record in winners) == {"wmdd": 2, "kmeans": 2, "random": 2}
    assert {record["data"]["val_images"] for record in winners} == {360}

    rows = {row["method"]: row for row in table_of(outcome)}
    for method, points in (("wmdd", 4), ("kmeans", 2), ("random", 2)):
        own = [record for record in trials if record["method"] == method]
        by_point: dict[str, list[float]] = {}
        for record in own:
            by_point.setdefault(json.dumps(record["trials"][0]["settings"]), []).append(record["metrics"]["top1_last"])
        means = {point: sum(values) / len(values) for point, values in by_point.items()}
        assert len(means) == points
        best = max(means, key=lambda point: means[point])
        (won,) = {json.dumps(record["trials"][0]["settings"]) for record in winners if record["method"] == method}
        assert won == best
        row = rows[method]
        assert row["trials"] == "4"
        assert row["winner"] == ", ".join(f"{path}={value:g}" for path, value in json.loads(best).items())
        assert float(row["held-out top-1"].split()[0]) == pytest.approx(means[best], abs=0.005)
        on = 4 // points
        assert row["n held-out"] == ("1 student on 1 set" if on == 1 else f"{on} students on {on} sets")
        final = [record["metrics"]["top1_last"] for record in winners if record["method"] == method]
        assert float(row["validation top-1"].split()[0]) == pytest.approx(sum(final) / 2, abs=0.005)

    # From the cache: the same tables, the same records. A later `run` of a trial's cell does not remove its trial.
    before = shell.files("cache")
    assert shell("tune", *METHODS, *SEARCH).out == outcome.out
    assert shell.files("cache") == before
    trial = next(record for record in trials if record["method"] == "random")
    epochs = trial["configuration"]["evaluator_settings"]["epochs"]
    settings = ("--set", "data.holdout=0.1", "--set", f"evaluator.epochs={epochs}")
    assert shell("run", *SEARCH[:20], "--method", "random", *settings).code == 0
    assert records_in(shell) == records
    shown = shell("show", trial["name"]).out
    assert re.search(rf"^tuning +trial {trial['trials'][0]['trial']} of 4 of the search {name}$", shown, re.MULTILINE)


@pytest.mark.slow
def test_the_selection_does_not_read_the_validation_images(shell: Shell, image_folder: Callable[..., Path]) -> None:
    """With swapped labels of the two validation classes, the accuracy of each winner is that of the other class."""
    folder = image_folder("pictures", train=12, val=8)
    swapped = shutil.copytree(folder, folder.parent / "swapped" / "pictures")
    (swapped / "val" / "cat").rename(swapped / "val" / "other")
    (swapped / "val" / "dog").rename(swapped / "val" / "cat")
    (swapped / "val" / "other").rename(swapped / "val" / "dog")
    tables = []
    for images in (folder, swapped):
        words = ("--dataset", f"imagefolder:{images}", "--ipc", "2", "--evaluator", "hard", "--student", "convnet-d2")
        over = ("--over", "evaluator.epochs=1,8,30", "--set", "data.holdout=0.3", "--method", "kmeans,random")
        outcome = shell("tune", *words, *over, *FAST, "--arch", "convnet-bn-d2")
        assert outcome.code == 0, outcome.err
        tables.append(table_of(outcome))
    for row, other in zip(*tables, strict=True):
        assert (row["winner"], row["held-out top-1"]) == (other["winner"], other["held-out top-1"])
        assert float(row["validation top-1"]) + float(other["validation top-1"]) == 100.0
        assert row["validation top-1"] != other["validation top-1"]


@pytest.mark.slow
def test_a_trial_that_fails_counts_and_cannot_win(shell: Shell) -> None:
    outcome = shell(*RANDOM, "--student", "convnet-d2", "--over", "evaluator.learning_rate=1e30,0.1")
    assert outcome.code == 1
    assert [(row["settings"], row["held-out top-1"] == "failed") for row in outcome.rows] == [
        ("evaluator.learning_rate=1e30", True),
        ("evaluator.learning_rate=0.1", False),
    ]
    (row,) = table_of(outcome)
    assert (row["trials"], row["winner"]) == ("2", "evaluator.learning_rate=0.1")
    assert "the loss is nan" in outcome.err
    assert len(records_in(shell)) == 2


def test_a_dry_run_prints_plan_and_estimate_and_writes_nothing(shell: Shell) -> None:
    outcome = shell("tune", *METHODS, *SEARCH, "--dry-run")
    assert outcome.code == 0, outcome.err
    assert Counter(row["method"] for row in outcome.rows) == {"wmdd": 4, "kmeans": 4, "random": 4}
    assert "12 cells: in all about " in outcome.out
    assert re.search(
        r"^search tune-[0-9a-f]{8}: 4 trials of each method \(wmdd, kmeans, random\), 12 cells; "
        r"then the winners on the validation images, 6 cells, about \d+ s$",
        outcome.out,
        re.MULTILINE,
    )
    assert shell.files() == {}


def test_the_search_for_tuned_is_one_command(shell: Shell) -> None:
    """The command of the page, which counts its trials, without the images of ImageNette."""
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ddbench (tune .*?)^```$", page, re.MULTILINE | re.DOTALL)
    words = shlex.split(command.replace("\\\n", " "))
    outcome = shell(*words, "--dry-run", "--data-dir", shell.root)
    assert outcome.code == 0, outcome.err
    assert "17 trials of each method (wmdd, random), 68 cells; then the winners on the validation images, 12 cells" in (
        outcome.out
    )
    assert "68 students" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Missing option '--over'"),
        (("--over", "method.bn_weight=1,10"), "no method of this search has setting 'bn_weight'"),
        (("--over", "evaluator.epoch=1,2"), "did you mean 'epochs'?"),
        (("--over", "evaluator.epochs=1"), "a search needs more than one value"),
        (("--over", "evaluator.learning_rate=1e-2..1e-4", "--trials", "4"), "the lower first"),
        (("--over", "evaluator.learning_rate=1e-4..1e-2"), "give --trials N"),
        (("--over", "evaluator.epochs=1,2", "--trials", "1"), "1 is not in the range"),
        (("--over", "evaluator.epochs=1,2", "--method", "randm"), "did you mean 'random'?"),
        (("--over", "evaluator.epochs=1,0"), "evaluator.epochs"),
    ],
)
def test_bad_input_is_refused_in_one_line(words: tuple[str, ...], message: str, shell: Shell) -> None:
    outcome = shell(*RANDOM, *words)
    outcome.refused(message)
    assert len(outcome.errors) == 1
    assert shell.files() == {}
