"""From what a person typed to experiments: recipes composed, `--set` applied, everything validated. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from ddbench.config import recipes as recipes_module
from ddbench.config.experiment import Experiment
from ddbench.config.recipes import SECTIONS, Recipe
from ddbench.config.schema import DataConfig, DistillConfig, RuntimeConfig, StatisticsConfig, TeacherConfig
from ddbench.core.errors import DDBenchError, did_you_mean, unknown
from ddbench.core.text import error_text

if TYPE_CHECKING:
    from ddbench.registry.registry import Kind, PluginRegistry

Model = TypeVar("Model", bound=BaseModel)
T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """What was asked for: the options of `ddbench run`, before any recipe is read."""

    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    ipcs: tuple[int, ...]
    recipes: tuple[str, ...] = ()
    image_size: int | None = None
    arch: str | None = None
    students: tuple[str, ...] = ()
    evaluator: str | None = None
    seed: int = 0
    seeds: int = 1
    repeats: int = 1
    device: str = "auto"
    precision: str = "auto"
    compile: str = "auto"
    assignments: tuple[str, ...] = field(default_factory=tuple)


def experiments(request: Request, registry: PluginRegistry) -> list[Experiment]:
    """Every cell of the grid that `request` spans, in the order dataset, method, IPC, repeat, student, seed.

    Raises DDBenchError with one line for the first unknown name, wrong type or impossible value.
    """
    known = load_recipes(request.recipes, registry)
    methods = _distinct(request.methods)
    cells = []
    for dataset in _distinct(request.datasets):
        registry.dataset(dataset)
        for method in methods:
            ipcs: tuple[int | None, ...] = _distinct(request.ipcs)
            if not registry.distiller(method).needs_ipc:
                ipcs = (None,)
            elif not ipcs:
                raise DDBenchError(f"method '{method}' needs a number of images per class, e.g. --ipc 10")
            for ipc in ipcs:
                cells += expand_cell(request, registry, known, dataset, method, ipc)
    return cells


def experiment_of(tree: dict[str, Any], registry: PluginRegistry) -> Experiment:
    """Returns the experiment of a JSON tree, as a record or a work item holds it.

    Raises:
        DDBenchError: Its method or its protocol is not installed here.
    """
    settings = {
        "method_settings": registry.distiller(tree["method"])(**tree["method_settings"]),
        "evaluator_settings": registry.evaluator(tree["evaluator"])(**tree["evaluator_settings"]),
    }
    return Experiment(**{**tree, **settings})


def _distinct(values: Iterable[T]) -> tuple[T, ...]:
    """Each once, in order: a cell that is named twice must not count as two students."""
    return tuple(dict.fromkeys(values))


def load_recipes(names: Iterable[str], registry: PluginRegistry) -> list[Recipe]:
    """All installed recipes and the files among `names`. Raises DDBenchError for an unknown or unreadable one."""
    known = list(registry.recipes())
    for name in names:
        if name.endswith((".yaml", ".yml")):
            own = recipes_module.load_file(Path(name))
            if own.name in {recipe.name for recipe in known}:
                raise DDBenchError(f"recipe {name} is called '{own.name}', like an installed one: rename it")
            known.append(own)
        elif name not in {recipe.name for recipe in known}:
            raise unknown("recipe", name, {recipe.name for recipe in known})
    return known


def recipe_names(chosen: tuple[str, ...], known: list[Recipe], dataset: str) -> tuple[str, ...]:
    """The recipes that apply, in order: where no budget was chosen, the dataset's default one comes first.

    The default budget is `paper` where a paper's sizes are known for the dataset, else `quick`.
    """
    names = tuple(_stem(name, known) for name in chosen)
    budgets = {recipe.name for recipe in known if recipe.kind == "budget"}
    chosen_budgets = sorted(budgets & set(names))
    if not chosen_budgets:
        names = ("paper" if _covers("paper", known, dataset) else "quick", *names)
    for name in names:
        if name in budgets and not _covers(name, known, dataset):
            others = sorted(other for other in budgets if _covers(other, known, dataset))
            raise DDBenchError(f"recipe '{name}' has no sizes for dataset '{dataset}'; it has: {', '.join(others)}")
    if len(chosen_budgets) > 1:
        raise DDBenchError(f"--recipe: one budget at a time, not {' and '.join(chosen_budgets)}")
    return names


def _stem(name: str, known: list[Recipe]) -> str:
    if not name.endswith((".yaml", ".yml")):
        return name
    return next(recipe.name for recipe in reversed(known) if recipe.path == Path(name))


def _covers(name: str, known: list[Recipe], dataset: str) -> bool:
    context = {"dataset": [dataset], "budget": [name]}
    return any(
        block.matches(context) and "image_size" in block.settings.get("data", {})
        for recipe in known
        if recipe.name == name
        for block in recipe.blocks
    )


def expand_cell(
    request: Request,
    registry: PluginRegistry,
    known: list[Recipe],
    dataset: str,
    method: str,
    ipc: int | None,
) -> list[Experiment]:
    """The experiments of one dataset, method and IPC: sets, students, seeds. Raises as `experiments`."""
    distiller = registry.distiller(method)
    evaluator = request.evaluator or distiller.default_evaluator
    protocol = registry.evaluator(evaluator)
    if protocol.on_real_data and distiller.needs_ipc:
        raise DDBenchError(f"evaluator '{evaluator}' trains on the whole real training set: it goes with --method full")
    names = recipe_names(request.recipes, known, dataset)
    settings = _compose(known, names, dataset, method, evaluator)
    _apply_options(settings, request)
    changed = _apply_assignments(settings, request, method, evaluator, registry)

    teacher = _validated(TeacherConfig, "teacher", settings)
    students = _distinct(request.students) or (teacher.arch,)
    runtime = _validated(RuntimeConfig, "runtime", settings)
    sections: dict[str, BaseModel] = {
        "data": _validated(DataConfig, "data", settings),
        "statistics": _validated(StatisticsConfig, "statistics", settings),
        "distill": _validated(DistillConfig, "distill", settings),
    }
    asked: tuple[tuple[Kind, str, type[BaseModel]], ...] = (
        ("method", method, distiller),
        ("evaluator", evaluator, protocol),
    )
    for kind, owner, model in asked:
        with registry.attribute_errors(kind, owner):
            sections[f"{kind}_settings"] = _validated(model, kind, settings, owner)
            sections[f"{kind}_settings"].model_dump(mode="json")  # what keys and records are made of
    if ipc is not None and ipc < 1:
        raise DDBenchError(f"--ipc {ipc}: images per class must be at least 1")
    try:
        return [
            Experiment(
                dataset=dataset,
                method=method,
                ipc=ipc,
                evaluator=evaluator,
                student=student,
                student_stem=teacher.stem if student == teacher.arch else "auto",
                seed=request.seed,
                repeat=repeat,
                student_seed=number,
                recipes=names,
                changed=changed,
                teacher=teacher,
                runtime=runtime,
                **sections,
            )
            for repeat in range(request.repeats if distiller.needs_ipc else 1)
            for student in students
            for number in range(request.seeds)
        ]
    except ValidationError as error:
        raise DDBenchError(error_text(error)) from error


def _compose(
    known: list[Recipe], names: tuple[str, ...], dataset: str, method: str, evaluator: str
) -> dict[str, dict[str, Any]]:
    context = {"dataset": [dataset], "method": [method], "evaluator": [evaluator], "budget": list(names)}
    settings: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name in names:
        for recipe in known:
            if recipe.name != name:
                continue
            for block in recipe.blocks:
                if block.matches(context):
                    for section, values in block.settings.items():
                        settings[section].update(values)
    return settings


def _apply_options(settings: dict[str, dict[str, Any]], request: Request) -> None:
    data = settings["data"]
    if request.image_size is not None and request.image_size != data.get("image_size"):
        usual = _validated(DataConfig, "data", settings)
        data["image_size"] = request.image_size
        data["stored_size"] = round(Fraction(request.image_size * usual.stored_size, usual.image_size))
    if request.arch is not None:
        settings["teacher"]["arch"] = request.arch
    chosen = {"device": request.device, "precision": request.precision, "compile": request.compile}
    settings["runtime"].update({name: value for name, value in chosen.items() if value != "auto"})


def _apply_assignments(
    settings: dict[str, dict[str, Any]], request: Request, method: str, evaluator: str, registry: PluginRegistry
) -> tuple[str, ...]:
    """Applies every `--set` that concerns this cell and returns the names that it changed."""
    protocols = {request.evaluator or registry.distiller(name).default_evaluator for name in request.methods}
    # A method or a protocol may be named instead of its section: (section, all names, this run's, this cell's).
    owners = (
        ("method", {distiller.name for distiller in registry.distillers()}, set(request.methods), method),
        ("evaluator", {protocol.name for protocol in registry.evaluators()}, protocols, evaluator),
    )
    changed = []
    for text in request.assignments:
        path, equals, value = text.partition("=")
        section, dot, name = path.strip().partition(".")
        if not (equals and dot and name):
            raise DDBenchError(f"--set {text}: write it as section.name=value, e.g. --set teacher.epochs=20")
        owning = [owner for owner in owners if section in owner[1] and section not in SECTIONS]
        # A method and a protocol may share a name (dsa): the one that the run has is meant.
        meant = [owner for owner in owning if section in owner[2]]
        if len(meant) > 1:
            raise DDBenchError(
                f"--set {text}: '{section}' is a method and an evaluator here: write method. or evaluator."
            )
        if owning:
            kind, _, used, mine = (meant or owning)[0]
            if section not in used:
                raise DDBenchError(f"--set {text}: this run has no --{kind} {section}")
            if section != mine:
                continue
            section = kind
        if section not in SECTIONS:
            names = {*SECTIONS, *request.methods, evaluator}
            raise DDBenchError(f"--set {text}: unknown section '{section}'{did_you_mean(section, names)}")
        if not value.strip():
            raise DDBenchError(f"--set {text}: there is no value (for none, write null)")
        try:
            parsed = recipes_module.parse_plain_yaml(value)
        except ValueError as error:
            raise DDBenchError(f"--set {text}: '{value}' is not a plain value") from error
        settings[section][name.strip()] = parsed
        changed.append(f"{section}.{name.strip()}")
    return tuple(changed)


def _validated(model: type[Model], section: str, settings: Mapping[str, Mapping[str, Any]], owner: str = "") -> Model:
    values = settings[section]
    for name in values:
        if name not in model.model_fields:
            place = f"{section} ({owner})" if owner else section
            raise DDBenchError(f"{place} has no setting '{name}'{did_you_mean(name, model.model_fields)}")
        if isinstance(values[name], bool) and "bool" not in str(model.model_fields[name].annotation):
            raise DDBenchError(f"{section}.{name}: a number is needed (got {values[name]})")
    try:
        return model(**values)
    except ValidationError as error:
        raise DDBenchError(f"{section}.{error_text(error)}".replace("..", ".")) from error
