"""The points of a search: what `--over` may say, grids, and draws that are repeated, uniform and without duplicates."""

import math
import re
from collections import Counter

import pytest

from ddbench.core.errors import DDBenchError
from ddbench.pipeline.search_space import LONGEST_GRID, Over, draw_points, grid_of, parse_over, points_of, settings_of

RATE = parse_over("evaluator.learning_rate=1e-4..1e-2")
STEPS = parse_over("method.steps=10..1000")
WEIGHT = parse_over("method.bn_weight=0,1,10")
SOLVER = parse_over("method.solver=released,lloyd")


def test_values_are_those_of_set() -> None:
    assert WEIGHT.values == ("0", "1", "10")
    assert parse_over("method.x=1,true,1.0,1e0,[1]").values == ("1", "true", "[1]")
    assert parse_over(" method.x = a , [1, 2],null").values == ("a", "[1, 2]", "null")
    assert (STEPS.bounds, RATE.bounds) == ((10, 1000), (1e-4, 1e-2))
    assert settings_of((("e.rate", "1e-3"), ("m.betas", "[0.5, 0.9]"), ("m.solver", "lloyd"), ("m.none", "null"))) == {
        "e.rate": 0.001,
        "m.betas": [0.5, 0.9],
        "m.solver": "lloyd",
        "m.none": None,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method.bn_weight", "write it as section.name=values"),
        ("bn_weight=1,10", "write it as section.name=values"),
        ("method.bn_weight=", "needs more than one value"),
        ("method.bn_weight=1", "needs more than one value; write several"),
        ("method.bn_weight=1,1", "needs more than one value"),
        ("method.bn_weight=1,1.0", "needs more than one value"),
        ("evaluator.learning_rate=1e-3,0.001", "needs more than one value"),
        ("method.bn_weight=[1", "'[1' is not a list of plain values"),
        ("evaluator.learning_rate=1e-2..1e-4", "a range has two positive numbers, the lower first"),
        ("evaluator.learning_rate=1e-2..1e-2", "a range has two positive numbers, the lower first"),
        ("evaluator.learning_rate=0..1", "a range has two positive numbers, the lower first"),
        ("evaluator.learning_rate=1..inf", "a range has two positive numbers, the lower first"),
        ("evaluator.learning_rate=nan..1", "a range has two positive numbers, the lower first"),
        ("evaluator.learning_rate=1e-4..", "needs more than one value"),
    ],
)
def test_what_is_no_search_is_refused(text: str, message: str) -> None:
    with pytest.raises(DDBenchError, match=re.escape(message)) as error:
        parse_over(text)
    assert str(error.value).startswith(f"--over {text}: ")


def test_a_smaller_grid_has_its_points_again_in_their_order() -> None:
    points = points_of({"wmdd": [WEIGHT, SOLVER], "kmeans": [SOLVER], "random": []}, None, seed=0)
    assert points["wmdd"] == grid_of([WEIGHT, SOLVER])
    assert [dict(point)["method.solver"] for point in points["kmeans"]] == ["released", "lloyd"] * 3
    assert points["random"] == [()] * 6


def test_a_grid_is_refused_for_a_range_and_if_it_is_large() -> None:
    with pytest.raises(DDBenchError, match=r"--over method.steps: a range is searched at random: give --trials N"):
        points_of({"wmdd": [WEIGHT, STEPS]}, None, seed=0)
    many = Over("method", "x", tuple(map(str, range(LONGEST_GRID + 1))))
    with pytest.raises(DDBenchError, match=r"has 1001 trials for each method; --trials N draws N of them"):
        points_of({"wmdd": [many], "random": []}, None, seed=0)


def test_no_point_is_drawn_again_before_every_other_one() -> None:
    points = draw_points([WEIGHT, SOLVER], 15, seed=3)
    assert len(points) == 15
    assert Counter(points[:6]) == Counter(points[6:12]) == Counter(grid_of([WEIGHT, SOLVER]))
    assert len(set(points[12:])) == 3
    assert draw_points([WEIGHT, SOLVER], 15, seed=3) == points != draw_points([WEIGHT, SOLVER], 15, seed=4)
    assert draw_points([], 3, seed=0) == [()] * 3


def test_a_range_is_uniform_in_its_logarithm() -> None:
    """Mean and variance of the share of the range are 1/2 and 1/12, within four standard errors."""
    points = draw_points([RATE, STEPS], 400, seed=0)
    assert len(set(points)) == 400
    shares = [(math.log10(float(dict(point)[RATE.path])) + 4) / 2 for point in points]
    assert all(0 <= share <= 1 for share in shares)
    mean = sum(shares) / 400
    assert abs(mean - 0.5) < 4 / math.sqrt(12 * 400)
    assert abs(sum((share - mean) ** 2 for share in shares) / 399 - 1 / 12) < 4 * math.sqrt(1 / 180 / 400)
    steps = [dict(point)[STEPS.path] for point in points]
    assert all(10 <= int(step) <= 1000 for step in steps)


def test_methods_have_equal_draws_of_a_shared_range() -> None:
    points = points_of({"wmdd": [SOLVER, RATE], "random": [RATE]}, 8, seed=0)
    of_wmdd, of_random = ([dict(point)[RATE.path] for point in points[name]] for name in ("wmdd", "random"))
    assert of_wmdd == of_random
    assert len(set(of_random)) == 8


def test_values_stay_inside_a_range_with_more_digits() -> None:
    narrow = parse_over("e.x=1.23456..1.23457")
    assert {float(dict(point)["e.x"]) for point in draw_points([narrow], 1, seed=0)} <= {1.23456, 1.23457}


@pytest.mark.parametrize(
    ("text", "values"), [("e.epochs=1..3", ("1", "2", "3")), ("e.x=1.23..1.25", ("1.23", "1.24", "1.25"))]
)
def test_a_range_with_fewer_values_than_trials_has_each_equally_often(text: str, values: tuple[str, ...]) -> None:
    narrow = parse_over(text)
    points = draw_points([narrow], 9, seed=0)
    assert Counter(points) == {((narrow.path, value),): 3 for value in values}
    pairs = draw_points([narrow, SOLVER], 13, seed=0)
    assert sorted(Counter(pairs).values()) == [2, 2, 2, 2, 2, 3]
