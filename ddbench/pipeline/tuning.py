"""Equal tuning: a search over settings with as many trials for every method, and the runs of its winners.

Trials are ordinary cells with held-out training images; the winners are ordinary cells without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ddbench.api.dataset import MissingDataError
from ddbench.config.experiment import Experiment
from ddbench.config.recipes import SECTIONS, Recipe
from ddbench.core.canonical import key_of
from ddbench.core.errors import DDBenchError, did_you_mean, unknown
from ddbench.core.text import counted
from ddbench.pipeline.checks import open_grid
from ddbench.pipeline.composition import load_recipes
from ddbench.pipeline.estimate import Estimate, readable
from ddbench.pipeline.request import Request, expand_protocol, places, protocols
from ddbench.pipeline.search_space import Over, Point, parse_over, points_of, settings_of
from ddbench.pipeline.winners import Candidate, mean_top1
from ddbench.pipeline.workspace import Workspace
from ddbench.results.records import Record

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ddbench.registry.collection import Kind
    from ddbench.registry.registry import PluginRegistry

HOLDOUT = 0.1
"""The share of the training images that a search holds out if `data.holdout` is not set."""


class Search:
    """The trials of a search.

    Args:
        request: The options of the command. `repeats` and `seeds` are those of the winners; `data.holdout` among the
            assignments is the share that the search holds out.
        over: The texts of `--over`.
        trials: The number of trials of each method; None: the largest grid of a method.
        trial_repeats: The number of distilled sets of a trial, with one student each.
        registry: The installed methods and protocols.

    Attributes:
        known: All recipes.
        points: The point of each trial, by method.
        name: The name of the search in records. Equal trials have equal names.
        cells: The cells of all trials.

    Raises:
        DDBenchError: A setting or a value is wrong.
    """

    def __init__(
        self,
        request: Request,
        over: Iterable[str],
        trials: int | None,
        trial_repeats: int,
        registry: PluginRegistry,
    ) -> None:
        held = [text for text in request.assignments if _path(text) == "data.holdout"] or [f"data.holdout={HOLDOUT}"]
        others = tuple(text for text in request.assignments if _path(text) != "data.holdout")
        self.known: list[Recipe] = load_recipes(request.recipes, registry)
        self._request, self._registry = replace(request, assignments=others), registry
        self._places = list(places(request, registry))
        settings = self._settings([parse_over(text) for text in over])
        self.points = points_of(settings, trials, request.seed)
        searching = replace(self._request, assignments=(*others, *held), repeats=trial_repeats, seeds=1)
        cells = [numbered for method in self.points for numbered in self._numbered_cells(method, searching)]
        if not all(cell.data.holdout for _, cell in cells):
            raise DDBenchError(f"--set {held[0]}: a search needs held-out training images")
        self.name = f"tune-{key_of({'cells': [[number, cell.public()] for number, cell in cells]})[:8]}"
        self.cells = [self._with_trial(cell, number) for number, cell in cells]
        self._first_cells = self.winner_cells(dict.fromkeys(self.points, 1))  # before anything is trained

    def _settings(self, over: Sequence[Over]) -> dict[str, list[Over]]:
        """Returns the settings that are searched for each method: those that it or one of its protocols has."""
        for path, count in Counter(setting.path for setting in over).items():
            if count > 1:
                raise DDBenchError(f"--over {path} is given {count} times")
        by_method: dict[str, list[Over]] = {method: [] for _, method, _ in self._places}
        fixed = {_path(text) for text in self._request.assignments}
        for setting in over:
            having = [method for method in by_method if self._targets(setting.path, method)]
            if not having:
                raise self._refusal(setting, by_method)
            for method in having:
                targets = self._targets(setting.path, method).items()
                if any(targets & self._targets(path, method).items() for path in fixed):
                    raise DDBenchError(f"--over {setting.path}: --set gives it a value too; leave out one of them")
                if any(targets & self._targets(other.path, method).items() for other in by_method[method]):
                    raise DDBenchError(f"--over {setting.path}: {method} has this setting in another --over too")
                by_method[method].append(setting)
        return by_method

    def _targets(self, path: str, method: str) -> dict[str, str]:
        """Returns a setting as `method.NAME` or `evaluator.NAME`, by protocol of a method, where it exists."""
        section, _, name = path.partition(".")
        targets: dict[str, str] = {}
        for evaluator in protocols(self._request, self._registry, method):
            for kind, owner, model in self._models(method, evaluator):
                if section in (kind, owner) and name in model.model_fields:
                    targets.setdefault(evaluator, f"{kind}.{name}")
        return targets

    def _models(self, method: str, evaluator: str) -> tuple[tuple[Kind, str, type[BaseModel]], ...]:
        distiller, protocol = self._registry.distiller(method), self._registry.evaluator(evaluator)
        return ("method", method, distiller), ("evaluator", evaluator, protocol)

    def _refusal(self, setting: Over, methods: Iterable[str]) -> DDBenchError:
        """Returns the error for a setting that no method of the search and none of its protocols has."""
        names: dict[str, set[str]] = {}
        for method in methods:
            for evaluator in protocols(self._request, self._registry, method):
                for kind, owner, model in self._models(method, evaluator):
                    for section in (kind, owner):
                        names.setdefault(section, set()).update(model.model_fields)
        if setting.section in names:
            any_of = setting.section in ("method", "evaluator")
            having = f"no {setting.section} of this search has" if any_of else f"{setting.section} has no"
            hint = did_you_mean(setting.name, names[setting.section])
            return DDBenchError(f"--over {setting.path}: {having} setting '{setting.name}'{hint}")
        if setting.section in SECTIONS:
            examples = "method.bn_weight or evaluator.learning_rate"
            return DDBenchError(f"--over {setting.path}: only methods and protocols are searched, e.g. {examples}")
        return DDBenchError(f"--over {setting.path}: {unknown('section', setting.section, names)}")

    def _numbered_cells(self, method: str, request: Request) -> Iterator[tuple[int, Experiment]]:
        """Yields the cells of a method with the numbers of their trials.

        A point that occurs again has other distilled sets and other student seeds.
        """
        occurrences: Counter[Point] = Counter()
        for number, point in enumerate(self.points[method], 1):
            again = occurrences[point]
            occurrences[point] += 1
            for cell in self._expand(method, point, request):
                repeat = cell.repeat + (again * request.repeats if cell.method.needs_ipc else 0)
                yield number, cell.model_copy(update={"repeat": repeat, "student_seed": again})

    def _expand(self, method: str, point: Point, request: Request) -> Iterator[Experiment]:
        for dataset, name, ipc in self._places:
            for evaluator in protocols(request, self._registry, method) if name == method else ():
                targets = [(self._targets(path, method).get(evaluator), value) for path, value in point]
                own = tuple(f"{target}={value}" for target, value in targets if target)
                changed = replace(request, assignments=(*request.assignments, *own))
                yield from expand_protocol(changed, self._registry, self.known, dataset, method, ipc, evaluator)

    def _with_trial(self, cell: Experiment, number: int) -> Experiment:
        points = self.points[cell.method_name]
        settings = settings_of(points[number - 1])
        trial = {"search": self.name, "trial": number, "of": len(points), "settings": settings}
        return cell.model_copy(update={"trial": trial})

    def candidates(self, records: Iterable[Record]) -> list[Candidate]:
        """Returns every point of the search with its result, by method, in the order of the trials.

        Args:
            records: The records of the trials. Records on validation images do not count.
        """
        by_trial: dict[tuple[str, int], dict[str, Record]] = {}
        for record in records:
            for trial in record.trials:
                if trial.search == self.name and record.holdout:
                    by_trial.setdefault((record.method, trial.trial), {})[record.name] = record
        expected = Counter((cell.method_name, cell.trial["trial"]) for cell in self.cells if cell.trial)
        candidates = []
        for method, points in self.points.items():
            for point in dict.fromkeys(points):
                trials = tuple(number for number, other in enumerate(points, 1) if other == point)
                made = [by_trial.get((method, number), {}) for number in trials]
                complete = [len(each) for each in made] == [expected[method, number] for number in trials]
                own = [record for each in made for record in each.values()]
                candidates.append(Candidate(method, point, trials, own, mean_top1(own) if complete else None))
        return candidates

    def winner_cells(self, winners: Mapping[str, int]) -> list[Experiment]:
        """Returns the cells that run the winners with the whole training set on the validation images.

        Args:
            winners: The number of the trial that won, by method.

        Raises:
            DDBenchError: A recipe sets `data.holdout`.
        """
        cells = [
            self._with_trial(cell, number)
            for method, number in winners.items()
            for cell in self._expand(method, self.points[method][number - 1], self._request)
        ]
        if any(cell.data.holdout for cell in cells):
            raise DDBenchError("a recipe sets data.holdout, but the winners need the whole training set: use --set")
        return cells

    def plan_text(self, workspace: Workspace) -> str:
        """Describes the search: its trials, and the number and the time of the winners' cells.

        The winners are not known yet, so the time is that of each method's first point.

        Args:
            workspace: The cache and the datasets.
        """
        trials = counted(len(next(iter(self.points.values()))), "trial")
        text = f"search {self.name}: {trials} of each method ({', '.join(self.points)}), {len(self.cells)} cells"
        text += f"; then the winners on the validation images, {counted(len(self._first_cells), 'cell')}"
        try:
            estimate = Estimate()
            for pipeline in open_grid(self._first_cells, workspace):
                estimate.add(pipeline)
        except MissingDataError:
            return text
        return f"{text}, about {readable(estimate.total)}"


def _path(text: str) -> str:
    """Returns the name of the setting in a `--set` text."""
    return text.partition("=")[0].strip()
