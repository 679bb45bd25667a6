"""The points of a search over settings: every combination of values, or random draws. Imports no torch."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ddbench.config.recipes import parse_plain_yaml
from ddbench.core import seeds
from ddbench.core.errors import DDBenchError
from ddbench.core.text import value_text

if TYPE_CHECKING:
    import torch

LONGEST_GRID = 1000
"""A larger grid needs a number of trials."""
MISSES = 1000
"""After as many draws in a row that were drawn before, a space with a range has no other points."""
Point = tuple[tuple[str, str], ...]
"""The searched settings of a trial: names as given on the command line, and values as `--set` takes them."""


@dataclass(frozen=True)
class Over:
    """One setting of a search.

    Attributes:
        section: `method`, `evaluator`, or the name of a method or a protocol.
        name: The name of the setting.
        values: The values; empty for a range.
        bounds: The bounds of a range, lower first; None for values.
    """

    section: str
    name: str
    values: tuple[str, ...] = ()
    bounds: tuple[float, float] | None = None

    @property
    def path(self) -> str:
        """The name with its section."""
        return f"{self.section}.{self.name}"

    def draw(self, generator: torch.Generator) -> str:
        """Draws a value: one of the list, or one of the range, uniform in its logarithm, with three digits."""
        import torch

        if self.bounds is None:
            return self.values[int(torch.randint(len(self.values), (), generator=generator))]
        low, high = self.bounds
        share = torch.rand((), generator=generator, dtype=torch.float64).item()
        value = math.exp(math.log(low) + share * math.log(high / low))
        if isinstance(low, int) and isinstance(high, int):
            return str(round(value))
        return repr(min(max(float(f"{value:.3g}"), low), high))


def parse_over(text: str) -> Over:
    """Parses an `--over` text such as `method.bn_weight=1,10` or `evaluator.learning_rate=1e-4..1e-2`.

    Args:
        text: The text.

    Returns:
        The setting.

    Raises:
        DDBenchError: It does not have this form, has one value, or its range is empty.

    Example:
        >>> parse_over("method.betas=[0.5, 0.9],[0.9, 0.99]").values
        ('[0.5, 0.9]', '[0.9, 0.99]')
        >>> parse_over("evaluator.learning_rate=1e-4..1e-2").bounds
        (0.0001, 0.01)
    """
    path, equals, listed = text.partition("=")
    section, dot, name = (part.strip() for part in path.partition("."))
    if not (equals and dot and name):
        raise DDBenchError(f"--over {text}: write it as section.name=values, e.g. --over method.bn_weight=1,10")
    low, dots, high = listed.partition("..")
    if dots:
        try:
            bounds = _number(low), _number(high)
        except ValueError:
            pass
        else:
            if not 0 < bounds[0] < bounds[1] < math.inf:
                raise DDBenchError(f"--over {text}: a range has two positive numbers, the lower first: 1e-4..1e-2")
            return Over(section, name, bounds=bounds)
    try:
        values = parse_plain_yaml(f"[{listed}]")
    except ValueError as error:
        raise DDBenchError(f"--over {text}: '{listed}' is not a list of plain values") from error
    texts = _distinct(map(value_text, values))
    if len(texts) < 2:
        hint = "write several, as 1,10 or 1e-4..1e-2, or use --set"
        raise DDBenchError(f"--over {text}: a search needs more than one value; {hint}")
    return Over(section, name, texts)


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    """Returns the texts of distinct values; 1e-3 and 0.001 are one, and 1 and 1.0."""
    by_value: dict[str, str] = {}
    for text in texts:
        value = _value(text)
        by_value.setdefault(repr(float(value) if type(value) in (int, float) else value), text)
    return tuple(by_value.values())


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def settings_of(point: Point) -> dict[str, Any]:
    """Returns the settings of a point with their values, for a record.

    Example:
        >>> settings_of((("evaluator.learning_rate", "1e-3"), ("method.solver", "lloyd")))
        {'evaluator.learning_rate': 0.001, 'method.solver': 'lloyd'}
    """
    return {path: _value(text) for path, text in point}


def _value(text: str) -> Any:
    value = parse_plain_yaml(text)
    try:
        return _number(value) if isinstance(value, str) else value  # YAML reads 1e-3 as text
    except ValueError:
        return value


def grid_of(settings: Sequence[Over]) -> list[Point]:
    """Returns every combination of the values; the last setting varies fastest.

    Example:
        >>> grid_of([parse_over("a.x=1,2"), parse_over("b.y=3,4")])[1]
        (('a.x', '1'), ('b.y', '4'))
    """
    lists = [[(setting.path, value) for value in setting.values] for setting in settings]
    return list(itertools.product(*lists))


def draw_points(settings: Sequence[Over], trials: int, seed: int) -> list[Point]:
    """Draws the points of a random search. No point is drawn again before every other one has been drawn as often.

    How many points a space with a range has is not known: it depends on the digits of the values. Of such a space, a
    point that was not drawn in `MISSES` draws in a row does not count.

    Args:
        settings: The settings.
        trials: The number of points.
        seed: The base seed. Every setting has a generator of its own, which its name and this seed determine.
    """
    total = math.prod(math.inf if setting.bounds else len(setting.values) for setting in settings)
    generators = [seeds.generator("tune", seed, setting.path) for setting in settings]
    points: list[Point] = []
    counts: Counter[Point] = Counter()
    misses = 0
    while len(points) < trials:
        pairs = zip(settings, generators, strict=True)
        point = tuple((setting.path, setting.draw(generator)) for setting, generator in pairs)
        if counts[point] <= len(points) // total:
            counts[point] += 1
            points.append(point)
            misses = 0
        elif (misses := misses + 1) == MISSES and math.isinf(total):
            total = len(counts)
    return points


def points_of(settings: Mapping[str, Sequence[Over]], trials: int | None, seed: int) -> dict[str, list[Point]]:
    """Returns a point for each trial of each method. All methods have as many trials.

    A method whose grid is smaller than the number of trials has every point again, in the same order.
    """
    if trials is not None:
        return {method: draw_points(each, trials, seed) for method, each in settings.items()}
    for setting in itertools.chain(*settings.values()):
        if setting.bounds:
            raise DDBenchError(f"--over {setting.path}: a range is searched at random: give --trials N")
    size = max(math.prod(len(setting.values) for setting in each) for each in settings.values())
    if size > LONGEST_GRID:
        raise DDBenchError(f"--over: the grid has {size} trials for each method; --trials N draws N of them")
    return {method: list(itertools.islice(itertools.cycle(grid_of(each)), size)) for method, each in settings.items()}
