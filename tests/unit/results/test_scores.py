"""Scores over the label regimes: formulas by hand, and strict matching."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddbench.results import records
from ddbench.results.frames import to_frame
from ddbench.results.records import Record
from ddbench.results.scores import SCORE_COLUMNS, normalise_score, scores

if TYPE_CHECKING:
    from tests.unit.conftest import Change, MakeTree, Scored, Tree

FrameOf = Callable[[list["Tree"]], pd.DataFrame]


@pytest.fixture
def frame_of(tmp_path: Path) -> FrameOf:
    """Writes records and loads them."""

    def make(trees: list[Tree]) -> pd.DataFrame:
        for number, one in enumerate(trees):
            records.write(Record(**{**one, "name": f"{number:03d}"}), tmp_path)
        return to_frame(records.read_all(tmp_path))

    return make


def line(frame: pd.DataFrame, method: str = "wmdd", regime: str = "fkd") -> dict[str, Any]:
    """The one row of a method under a regime."""
    rows = scores(frame[frame["method"].isin([method, "random", "full"])])
    (row,) = rows[rows["regime"] == regime].to_dict("records")[-1:]
    assert (row["method"], row["regime"]) == (method, regime)
    return {str(name): value for name, value in row.items()}


def test_the_formulas_by_hand(scored: Scored, frame_of: FrameOf) -> None:
    row = line(frame_of([*scored.random, *scored.hard, *scored.full, *scored.own]))
    assert list(row) == list(SCORE_COLUMNS)
    assert row["top1"] == 63.0
    assert row["deviation"] == pytest.approx(math.sqrt(2))  # of the sample (62, 64)
    assert (row["n"], row["sets"]) == (2, 1)
    assert (row["random"], row["random_n"], row["ior"]) == (52.0, 2, 11.0)
    assert (row["hard"], row["hard_n"], row["full"], row["full_n"], row["hlr"]) == (41.0, 2, 90.0, 2, 49.0)
    # a = 0.5 x 0.11 - 0.5 x 0.49 = -0.19; e^-0.19 = 0.82695913, e^-1 = 0.36787944, e = 2.71828183
    assert row["lrs"] == pytest.approx((0.82695913 - 0.36787944) / (2.71828183 - 0.36787944), abs=1e-8)
    assert row["lrs"] == pytest.approx(0.1953196, abs=1e-6)
    assert row["lrs_raw"] == -19.0
    assert row["missing"] == ""
    assert (row["dataset"], row["image_size"], row["ipc"], row["holdout"]) == ("imagenette", 64, 10, 0.0)
    assert (row["protocol"], row["recipe"], row["student"]) == ("fkd v1", "quick", "resnet18")


def plain(one: Tree, top1: float | None = None) -> Tree:
    """The record of a student without augmentation."""
    actual = copy.deepcopy(one)
    actual["configuration"]["evaluator_settings"]["augmentation"] = "none"
    actual["metrics"]["top1_last"] = one["metrics"]["top1_last"] if top1 is None else top1
    return actual


@pytest.fixture
def unaugmented(scored: Scored) -> tuple[list[Tree], list[Tree]]:
    """Students of the sets of `scored.own`, and of random images, without augmentation."""
    own = [plain(one, top1) for one, top1 in zip(scored.own, (45.0, 47.0), strict=True)]
    return own, [plain(one, top1) for one, top1 in zip(scored.random, (30.0, 34.0), strict=True)]


def test_the_augmentation_robust_score_by_hand(
    scored: Scored, unaugmented: tuple[list[Tree], list[Tree]], frame_of: FrameOf
) -> None:
    own, random = unaugmented
    frame = frame_of([*own, *random, *scored.random, *scored.own])
    rows = scores(frame[frame["method"] == "wmdd"]).to_dict("records")
    assert sorted(row["top1"] for row in rows) == [46.0, 63.0]  # no mean over students with and without
    bare, row = sorted(scores(frame).query("method == 'wmdd'").to_dict("records"), key=lambda one: one["top1"])
    assert (row["top1"], row["random"], row["ior"]) == (63.0, 52.0, 11.0)
    assert (row["unaugmented"], row["unaugmented_n"]) == (46.0, 2)
    assert (row["unaugmented_random"], row["unaugmented_random_n"]) == (32.0, 2)
    # beta = 0.5 x 0.11 + 0.5 x 0.14 = 0.125; e^0.125 = 1.13314845, e^-1 = 0.36787944, e = 2.71828183
    assert row["ars_raw"] == 12.5
    assert row["mixture"] == ""
    assert row["ars"] == pytest.approx((1.13314845 - 0.36787944) / (2.71828183 - 0.36787944), abs=1e-8)
    assert row["missing"] == "hard: no record; full: no record"
    # The row of the students without augmentation has its own improvement over random.
    assert bare["ior"] == 14.0
    assert math.isnan(bare["ars"])
    assert math.isnan(bare["ars_raw"])
    assert bare["missing"] == "hard: no record; full: no record"


def test_without_students_without_augmentation_no_reference_is_missing(scored: Scored, frame_of: FrameOf) -> None:
    row = line(frame_of([*scored.random, *scored.hard, *scored.full, *scored.own]))
    assert row["missing"] == ""
    assert math.isnan(row["ars"])
    assert (row["unaugmented_n"], row["unaugmented_random_n"]) == (0, 0)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (None, None, "no record"),
        ("configuration.evaluator_settings.epochs", 100, "other evaluator.epochs"),
        ("configuration.evaluator_settings.min_crop", 0.5, "other evaluator.min_crop"),
        ("teacher.digest", "another", "other teacher"),
        ("student", "resnet50", "other student"),
        ("seed", 5, "no record of student seed 0, 1"),
    ],
)
def test_references_without_augmentation_that_are_missing_are_named(
    scored: Scored,
    unaugmented: tuple[list[Tree], list[Tree]],
    changed: Change,
    frame_of: FrameOf,
    path: str | None,
    value: Any,
    reason: str,
) -> None:
    own, random = unaugmented
    for name, kept, spoilt in (("unaugmented", random, own), ("unaugmented random", own, random)):
        others = [changed(one, path, value) for one in spoilt] if path else []
        (row,) = scores(frame_of([*scored.random, *scored.own, *kept, *others])).query("top1 == 63").to_dict("records")
        per_set = " on the same set" if path == "seed" and name == "unaugmented" else ""
        assert row["missing"] == f"hard: no record; full: no record; {name}: {reason}{per_set}"
        assert math.isnan(row["ars"])
        assert row["ior"] == 11.0


def test_a_set_that_was_built_again_pairs_by_its_seed(
    scored: Scored, unaugmented: tuple[list[Tree], list[Tree]], changed: Change, frame_of: FrameOf
) -> None:
    """The same settings and seeds: its images differ by rounding. With other settings it is another set."""
    own, random = unaugmented
    again = [changed(one, "distilled_digest", "rounded") for one in own]
    (row,) = scores(frame_of([*scored.random, *scored.own, *again, *random])).query("top1 == 63").to_dict("records")
    assert row["ars_raw"] == 12.5
    assert row["mixture"] == "unaugmented: 1 set with other images"
    steps = [changed(one, "configuration.method_settings.steps", 400) for one in again]
    (row,) = scores(frame_of([*scored.random, *scored.own, *steps, *random])).query("top1 == 63").to_dict("records")
    assert row["missing"].endswith("unaugmented: other method.steps")


def test_the_full_data_are_no_reference_of_students_without_augmentation(scored: Scored, frame_of: FrameOf) -> None:
    """Crops and flips of `full-data` cannot be turned off."""
    row = line(frame_of([*scored.full, *map(plain, scored.hard)]), regime="hard")
    assert row["missing"] == "random: no record; full: other evaluator.augmentation"


@given(st.floats(-100, 100), st.floats(-100, 100))
def test_normalised_scores_are_in_0_to_1_and_keep_the_order(one: float, other: float) -> None:
    assert -1e-12 <= normalise_score(one) <= 1 + 1e-12
    low, high = sorted([one, other])
    assert normalise_score(low) <= normalise_score(high)
    assert high - low < 1e-9 or normalise_score(low) < normalise_score(high)


def test_robust_scores_grow_with_the_accuracies_that_they_measure(tree: MakeTree) -> None:
    """Of the row, of its hard labels (lrs only) and without augmentation (ars only)."""

    def robust(own: float, hard: float, bare: float) -> tuple[float, float]:
        trees = [tree("wmdd", "fkd", own), tree("random", "fkd", 52.0), tree("wmdd", "hard", hard)]
        trees += [tree("full", "full-data", 90.0), plain(tree("wmdd", "fkd", bare)), plain(tree("random", "fkd", 32.0))]
        frame = to_frame([Record(**{**one, "name": str(number)}) for number, one in enumerate(trees)])
        row = scores(frame).query("method == 'wmdd' and regime == 'fkd'").iloc[0]
        assert row["missing"] == ""
        return float(row["lrs"]), float(row["ars"])

    start = robust(0.0, 0.0, 0.0)
    own, hard, bare, all_of_them = (
        robust(70.0, 0.0, 0.0),
        robust(0.0, 70.0, 0.0),
        robust(0.0, 0.0, 70.0),
        robust(100.0, 100.0, 100.0),
    )
    assert 0 < start[0] < own[0] == hard[0] < all_of_them[0] < 1
    assert 0 < start[1] < own[1] == bare[1] < all_of_them[1] < 1
    assert (hard[1], bare[0]) == (start[1], start[0])


@pytest.mark.parametrize(
    ("own", "random", "hard", "full", "lrs"),
    [
        (100.0, 0.0, 100.0, 0.0, 1.0),  # a = 1
        (0.0, 100.0, 0.0, 100.0, 0.0),  # a = -1
        (70.0, 70.0, 80.0, 80.0, 1 / (math.e + 1)),  # a = 0: (1 - 1/e) / (e - 1/e) = (e - 1) / (e^2 - 1)
    ],
)
def test_the_scale_of_the_label_robust_score(
    tree: MakeTree, frame_of: FrameOf, own: float, random: float, hard: float, full: float, lrs: float
) -> None:
    trees = [tree("random", "fkd", random), tree("wmdd", "hard", hard), tree("full", "full-data", full)]
    row = line(frame_of([*trees, tree("wmdd", "fkd", own)]))
    assert row["lrs"] == pytest.approx(lrs, abs=1e-12)
    assert math.isnan(row["deviation"])


def test_under_hard_labels_a_method_is_its_own_hard_reference(
    scored: Scored,
    tree: MakeTree,
    frame_of: FrameOf,
) -> None:
    """The teacher that made the images is not the random images' and need not be: hard labels come from none."""
    random = [tree("random", "hard", 30.0, 0), tree("random", "hard", 33.0, 1)]
    row = line(frame_of([*random, *scored.full, *scored.hard]), regime="hard")
    assert (row["top1"], row["hard"], row["random"], row["ior"], row["hlr"]) == (41.0, 41.0, 31.5, 9.5, 49.0)
    assert row["missing"] == ""


def test_random_is_no_better_than_itself(scored: Scored, frame_of: FrameOf) -> None:
    row = line(frame_of([*scored.full, *scored.random]), "random")
    assert (row["top1"], row["ior"], row["hard_n"]) == (52.0, 0.0, 0)
    assert math.isnan(row["lrs"])
    assert row["missing"] == "hard: no record"


def test_without_references_it_says_which_are_missing(scored: Scored, frame_of: FrameOf) -> None:
    row = line(frame_of(scored.own))
    assert row["top1"] == 63.0
    assert all(math.isnan(row[name]) for name in ("random", "ior", "hard", "full", "hlr", "lrs"))
    assert row["missing"] == "random: no record; hard: no record; full: no record"


WORLD = [
    ("data.fingerprint", "another", "dataset"),
    ("data", {}, "dataset"),
    ("configuration.data.image_size", 32, "data.image_size"),
    ("configuration.data.stored_size", 64, "data.stored_size"),
    ("configuration.data.holdout", 0.1, "data.holdout"),
    ("student", "resnet50", "student"),
    ("configuration.student_stem", "small", "student_stem"),
    ("configuration.runtime.device", "cuda", "device"),
    ("configuration.runtime.precision", "fp32", "device"),
    ("versions.numerics", "distilled=1 models=1 training=2 views=1", "numerics"),
]
IPC = [("ipc", 1, "ipc")]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        *WORLD,
        *IPC,
        ("evaluator", "soft", "evaluator"),
        ("evaluator_version", "2", "evaluator"),
        ("configuration.evaluator_settings.epochs", 100, "evaluator.epochs"),
        ("configuration.evaluator_settings.temperature", 1.0, "evaluator.temperature"),
        ("teacher.digest", "another", "teacher"),
        ("teacher", {"name": "resnet18", "top1": 76.0}, "teacher"),
    ],
)
def test_random_images_under_other_terms_are_no_reference(
    scored: Scored, changed: Change, frame_of: FrameOf, path: str, value: Any, message: str
) -> None:
    row = line(
        frame_of([*(changed(one, path, value) for one in scored.random), *scored.hard, *scored.full, *scored.own])
    )
    assert row["missing"] == f"random: other {message}"
    assert math.isnan(row["ior"])
    assert math.isnan(row["lrs"])
    assert row["hlr"] == 49.0


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [*WORLD, *IPC, ("configuration.evaluator_settings.cutmix_alpha", None, "evaluator.cutmix_alpha")],
)
def test_hard_labels_under_other_terms_are_no_reference(
    scored: Scored, changed: Change, frame_of: FrameOf, path: str, value: Any, message: str
) -> None:
    row = line(
        frame_of([*scored.random, *(changed(one, path, value) for one in scored.hard), *scored.full, *scored.own])
    )
    assert row["missing"] == f"hard: other {message}"
    assert math.isnan(row["hlr"])
    assert math.isnan(row["lrs"])
    assert row["ior"] == 11.0


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        *WORLD,
        ("configuration.teacher.epochs", 100, "teacher.epochs"),
        ("configuration.evaluator_settings.cutmix_alpha", None, "evaluator.cutmix_alpha"),
        ("configuration.evaluator_settings", {}, "evaluator.cutmix_alpha"),  # version 1: without CutMix
    ],
)
def test_the_full_data_under_other_terms_are_no_reference(
    scored: Scored, changed: Change, frame_of: FrameOf, path: str, value: Any, message: str
) -> None:
    row = line(
        frame_of([*scored.random, *scored.hard, *(changed(one, path, value) for one in scored.full), *scored.own])
    )
    assert row["missing"] == f"full: other {message}"
    assert math.isnan(row["hlr"])
    assert math.isnan(row["lrs"])
    assert row["ior"] == 11.0


def test_without_cutmix_the_full_data_of_version_1_are_the_reference(
    scored: Scored, changed: Change, frame_of: FrameOf
) -> None:
    """DD-Ranking's default: no CutMix under hard labels and on the full data."""
    setting = "configuration.evaluator_settings.cutmix_alpha"
    hard = [changed(one, setting, None) for one in scored.hard]
    old = [changed(one, "configuration.evaluator_settings", {}) for one in scored.full]
    with_cutmix = [{**one, "metrics": {**one["metrics"], "top1_last": 10.0}} for one in scored.full]
    row = line(frame_of([*old, *with_cutmix, *hard]), regime="hard")
    assert (row["hard"], row["full"], row["full_n"], row["hlr"]) == (41.0, 90.0, 2, 49.0)
    assert row["missing"] == "random: no record"
    new = [changed({**one, "evaluator_version": "2"}, setting, None) for one in scored.full]
    assert line(frame_of([*new, *hard]), regime="hard")["hlr"] == 49.0


def test_every_seed_needs_its_reference_and_others_are_left_out(
    scored: Scored,
    tree: MakeTree,
    frame_of: FrameOf,
) -> None:
    row = line(
        frame_of([scored.random[0], tree("random", "fkd", 80.0, 7), scored.hard[1], *scored.full[:1], *scored.own])
    )
    assert row["missing"] == (
        "random: no record of student seed 1; hard: no record of student seed 0 on the same set; "
        "full: no record of student seed 1"
    )
    more = [tree("random", "fkd", 99.0, 2), tree("wmdd", "hard", 99.0, 0, repeat=1), tree("full", "full-data", 9.0, 5)]
    row = line(frame_of([*scored.random, *scored.hard, *scored.full, *more, *scored.own]))
    assert (row["random"], row["random_n"], row["hard"], row["hard_n"], row["full"]) == (52.0, 2, 41.0, 2, 90.0)


def test_sets_and_seeds_are_counted_and_nothing_twice(
    scored: Scored, tree: MakeTree, changed: Change, frame_of: FrameOf
) -> None:
    """A base seed of 1 is the student seed 1; the same student on the same set, asked for again, is one."""
    again = {**scored.own[1], "seed": 1, "student_seed": 0}
    twice = [changed(one, "configuration.statistics.variance", "batch-mean") for one in scored.random]
    random = [*scored.random, *twice, tree("random", "fkd", 58.0, 0, repeat=1)]
    row = line(frame_of([*random, *scored.hard, *scored.full, *scored.own, again]))
    assert (row["n"], row["sets"], row["top1"]) == (2, 1, 63.0)
    assert (row["random_n"], row["random"]) == (3, 55.0)  # 50 and 54 on one set, 58 on another: a set counts once
    second = [tree("wmdd", "fkd", 66.0, 0, repeat=1), tree("wmdd", "hard", 44.0, 0, repeat=1)]
    row = line(frame_of([*random, *scored.hard, *scored.full, *scored.own, *second]))
    assert (row["n"], row["sets"], row["top1"], row["hard"], row["hard_n"]) == (3, 2, 64.5, 42.5, 3)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("method_version", "2"),
        ("configuration.method_settings.steps", 20),
        ("configuration.distill.jpeg_quality", 75),
        ("configuration.statistics.variance", "batch-mean"),
        ("teacher.digest", "another"),
        ("versions.numerics", "distilled=1 models=1 recover=0 training=1 views=1"),
        ("configuration.evaluator_settings.epochs", 100),
        ("configuration.data.holdout", 0.1),
        ("evaluator", "soft"),
    ],
)
def test_students_that_differ_in_more_than_seed_and_set_share_no_mean(
    scored: Scored, changed: Change, frame_of: FrameOf, path: str, value: Any
) -> None:
    actual = scores(frame_of([scored.own[0], changed(scored.own[1], path, value)]))
    assert sorted(actual["top1"]) == [62.0, 64.0]


def test_references_of_two_versions_are_not_mixed(scored: Scored, tree: MakeTree, frame_of: FrameOf) -> None:
    row = line(
        frame_of([*scored.random, tree("random", "fkd", 1.0, 1, repeat=1) | {"method_version": "2"}, *scored.own])
    )
    assert row["missing"].startswith("random: records of several versions; ")
    assert math.isnan(row["ior"])


def test_each_regime_has_rows_and_full_data_has_none(scored: Scored, frame_of: FrameOf) -> None:
    frame = frame_of([*scored.random, *scored.hard, *scored.full, *scored.own])
    assert list(scores(frame)["regime"]) == ["fkd", "hard", "fkd"]
    of_full = scores(frame[frame["method"] == "full"])
    assert of_full.empty
    assert list(of_full.columns) == list(SCORE_COLUMNS)


def test_rows_that_differ_in_settings_show_them_and_name_their_records(
    tree: MakeTree,
    changed: Change,
    frame_of: FrameOf,
) -> None:
    swept = [
        changed(
            changed(tree("wmdd", "fkd", 50.0), "configuration.method_settings", {"bn_weight": weight}),
            "configuration.changed",
            ["teacher.checkpoint", "method.bn_weight"],
        )
        for weight in (1.0, 10.0, 100.0)
    ]
    actual = scores(frame_of(swept))
    assert actual["settings"].tolist() == [f"method.bn_weight={weight}" for weight in (1.0, 10.0, 100.0)]
    assert actual["recipe"].unique().tolist() == ["quick + 1 changed"]
    assert actual["records"].tolist() == [["000"], ["001"], ["002"]]
    # An edited recipe file changes settings without --set; a teacher of the same name can be another one.
    edited = [changed(one, "configuration.changed", []) for one in swept]
    assert scores(frame_of(edited))["settings"].tolist() == ["bn_weight 1", "bn_weight 10", "bn_weight 100"]


def test_scores_name_what_differs_in_the_computation(scored: Scored, changed: Change, frame_of: FrameOf) -> None:
    pair = [scored.own[0], changed(scored.own[1], "device", {"type": "cpu", "name": "a CPU", "threads": 2})]
    (row,) = scores(frame_of(pair)).to_dict("records")
    assert row["n"] == 2
    assert row["mixture"] == "threads 1, 2 (evaluate)"


@pytest.mark.parametrize("newest", [0, 1])
def test_the_newest_record_of_a_student_counts_and_the_other_number_is_named(
    tree: MakeTree, newest: int, frame_of: FrameOf
) -> None:
    pair = [
        {**tree("wmdd", "fkd", top1), "keys": {"evaluate": ["key"], "statistics": ["all"]}} for top1 in (43.0, 50.0)
    ]
    pair[newest]["created"] = "2026-02-01T00:00:00+00:00"
    pair[1]["device"] = {**pair[1]["device"], "threads": 2}
    (row,) = scores(frame_of(pair)).to_dict("records")
    top1, other = ((43.0, "50.00 (001)"), (50.0, "43.00 (000)"))[newest]
    assert (row["top1"], row["n"], row["records"]) == (top1, 1, [f"{newest:03d}"])
    assert row["mixture"] == f"not shown: {other}, with the same seeds or images"
