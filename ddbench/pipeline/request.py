"""A request, and the experiments of its grid. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from ddbench.config.datasets import dataset_name, own_name
from ddbench.config.experiment import Experiment
from ddbench.config.recipes import Recipe
from ddbench.config.schema import DataConfig, DistillConfig, RuntimeConfig, StatisticsConfig, TeacherConfig
from ddbench.core.errors import DDBenchError
from ddbench.core.text import error_text
from ddbench.evaluators.length import EpochsOrSteps
from ddbench.pipeline.composition import compose, load_recipes, recipe_files, recipe_names
from ddbench.pipeline.measures import MEASURE, chosen_measures, measure_aliases, measure_section
from ddbench.pipeline.overrides import (
    SectionAlias,
    Settings,
    apply_assignments,
    replace_length,
    set_image_size,
    validated,
)
from ddbench.registry.collection import unknown_item

if TYPE_CHECKING:
    from ddbench.registry.registry import Kind, PluginRegistry

Model = TypeVar("Model", bound=BaseModel)
T = TypeVar("T")

OWN_PROTOCOL = "own-protocol"
"""The name that stands for the default protocol of each method among the protocols of a request."""


@dataclass(frozen=True)
class Request:
    """The options of `ddbench run`, before recipes are read. Options that are tuples span the grid.

    Attributes:
        methods: The names of the methods.
        datasets: The names of the datasets.
        ipcs: Images per class.
        recipes: The names or files of recipes. Later ones override earlier ones.
        image_size: The side of the images in pixels; None: the recipe's.
        arch: The network of the teacher; None: the recipe's.
        students: The networks of the students; empty: the default of each protocol, else the teacher's.
        evaluators: The protocols; `own-protocol` is the default of each method. Empty: `own-protocol`.
        measures: The names of the measures.
        seed: The base seed.
        seeds: The number of students on each distilled set.
        repeats: The number of distilled sets.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32` or `bf16`.
        compile: `auto`, `on` or `off`: whether the network of the recover loop is compiled.
        assignments: The texts of `--set`.
    """

    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    ipcs: tuple[int, ...]
    recipes: tuple[str, ...] = ()
    image_size: int | None = None
    arch: str | None = None
    students: tuple[str, ...] = ()
    evaluators: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    seed: int = 0
    seeds: int = 1
    repeats: int = 1
    device: str = "auto"
    precision: str = "auto"
    compile: str = "auto"
    assignments: tuple[str, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        for ipc in self.ipcs:
            if ipc < 1:
                raise DDBenchError(f"--ipc {ipc}: images per class must be at least 1")


def experiments(request: Request, registry: PluginRegistry) -> list[Experiment]:
    """Returns every cell of a grid, in the order dataset, method, IPC, protocol, repeat, student, seed.

    Raises:
        DDBenchError: A name is unknown, a type is wrong or a value is impossible.
    """
    known = load_recipes(request.recipes, registry)
    return [cell for place in places(request, registry) for cell in expand_cell(request, registry, known, *place)]


def places(request: Request, registry: PluginRegistry) -> Iterator[tuple[str, str, int | None]]:
    """Yields every dataset, method and IPC of a grid. The IPC of a method without one is None.

    Args:
        request: The options.
        registry: The installed methods and datasets.

    Raises:
        DDBenchError: A name is unknown, or a method needs an IPC and there is none.
    """
    for dataset in _distinct(request.datasets):
        registry.dataset(dataset)
        for method in _distinct(request.methods):
            ipcs: tuple[int | None, ...] = _distinct(request.ipcs)
            if not registry.distiller(method).needs_ipc:
                ipcs = (None,)
            elif not ipcs:
                raise DDBenchError(f"method '{method}' needs a number of images per class, e.g. --ipc 10")
            for ipc in ipcs:
                yield dataset, method, ipc


def experiment_of(tree: dict[str, Any], registry: PluginRegistry) -> Experiment:
    """Converts a JSON tree, as in a record or a unit of work, to an experiment.

    Raises:
        DDBenchError: Its method, its protocol or a measure is not installed here.
    """
    settings = {
        "method_settings": registry.distiller(tree["method"])(**tree["method_settings"]),
        "evaluator_settings": registry.evaluator(tree["evaluator"])(**tree["evaluator_settings"]),
        "measures": {name: registry.measure(name)(**values) for name, values in tree.get("measures", {}).items()},
    }
    return Experiment(**{**tree, **settings})


def _distinct(values: Iterable[T]) -> tuple[T, ...]:
    """Returns the distinct values, in order. A cell that is given twice must not count as two students."""
    return tuple(dict.fromkeys(values))


def expand_cell(
    request: Request,
    registry: PluginRegistry,
    known: list[Recipe],
    dataset: str,
    method: str,
    ipc: int | None,
) -> list[Experiment]:
    """Returns the experiments of one dataset, method and IPC: one for each protocol, set, student and seed.

    Args:
        request: The options.
        registry: The installed methods and protocols.
        known: All recipes, from `load_recipes`.
        dataset: The name of the dataset.
        method: The name of the method.
        ipc: Images per class. None for a method without an IPC.

    Raises:
        DDBenchError: As `experiments`.
    """
    names = protocols(request, registry, method)
    cells = [expand_protocol(request, registry, known, dataset, method, ipc, name) for name in names]
    return [experiment for cell in cells for experiment in cell]


def protocol_note(request: Request, registry: PluginRegistry) -> str | None:
    """Returns a line that names the protocols of a grid whose methods have different ones by default, else None.

    Args:
        request: The options.
        registry: The installed methods and protocols.
    """
    distillers = [registry.distiller(name) for name in _distinct(request.methods)]
    defaults = {method.name: method.default_evaluator for method in distillers if method.needs_ipc}
    if request.evaluators or len(set(defaults.values())) < 2:
        return None
    pairs = ", ".join(f"{method}: {evaluator}" for method, evaluator in defaults.items())
    return f"methods are evaluated by their authors' protocols: {pairs}; --evaluator fkd evaluates all by one"


def check_protocols(request: Request, registry: PluginRegistry) -> None:
    """Checks the names of the protocols of a request.

    Raises:
        DDBenchError: A name is unknown.
    """
    known = {OWN_PROTOCOL, *(protocol.name for protocol in registry.evaluators())}
    for name in request.evaluators:
        if name not in known:
            raise unknown_item("evaluator", name, known)


def protocols(request: Request, registry: PluginRegistry, method: str) -> list[str]:
    """Returns the distinct names of the protocols that a request has for a method.

    Args:
        request: The options.
        registry: The installed methods and protocols.
        method: The name of the method.

    Raises:
        DDBenchError: A name is unknown.
    """
    check_protocols(request, registry)
    return list(_distinct(_protocols_of(request, registry, (method,))))


def _protocols_of(request: Request, registry: PluginRegistry, methods: Iterable[str]) -> Iterator[str]:
    """Yields the requested protocols. `own-protocol` stands for that of each method."""
    for name in request.evaluators or (OWN_PROTOCOL,):
        if name == OWN_PROTOCOL:
            yield from (registry.distiller(method).default_evaluator for method in methods)
        else:
            yield name


def expand_protocol(
    request: Request,
    registry: PluginRegistry,
    known: list[Recipe],
    dataset: str,
    method: str,
    ipc: int | None,
    evaluator: str,
) -> list[Experiment]:
    """Returns the experiments of one dataset, method, IPC and protocol: one for each set, student and seed.

    Args:
        request: The options.
        registry: The installed methods and protocols.
        known: All recipes, from `load_recipes`.
        dataset: The name of the dataset.
        method: The name of the method.
        ipc: Images per class. None for a method without an IPC.
        evaluator: The name of the protocol, one of `protocols`.

    Raises:
        DDBenchError: As `experiments`.
    """
    distiller, protocol = registry.distiller(method), registry.evaluator(evaluator)
    if protocol.on_real_data and distiller.needs_ipc:
        problem = f"evaluator '{evaluator}' trains on the whole real training set, not on that of '{method}'"
        raise DDBenchError(f"{problem}: use it with --method full")
    own = own_name(dataset_name(dataset))
    names = recipe_names(request.recipes, known, own, method, evaluator)
    settings = compose(known, names, own, method, ipc, evaluator)
    _apply_options(settings, request)
    chosen = _distinct(request.measures)
    aliases = (*_aliases(request, registry, method, evaluator), *measure_aliases(chosen, registry))
    settings |= {measure_section(name): {} for name in chosen}
    changed = apply_assignments(settings, request.assignments, aliases)
    if issubclass(protocol, EpochsOrSteps):
        replace_length(settings, changed)

    teacher = validated(TeacherConfig, "teacher", settings)
    runtime = validated(RuntimeConfig, "runtime", settings)
    data = validated(DataConfig, "data", settings)
    sections: dict[str, BaseModel] = {
        "data": data,
        "statistics": validated(StatisticsConfig, "statistics", settings),
        "distill": validated(DistillConfig, "distill", settings),
    }
    models: tuple[tuple[Kind, str, type[BaseModel]], ...] = (
        ("method", method, distiller),
        ("evaluator", evaluator, protocol),
    )
    for kind, owner, model in models:
        with registry.attribute_errors(kind, owner):
            sections[f"{kind}_settings"] = validated(model, kind, settings, owner)
            # Keys and records contain the settings as JSON: raise errors of the conversion here.
            sections[f"{kind}_settings"].model_dump(mode="json")
    measures = chosen_measures(chosen, registry, settings)
    with registry.attribute_errors("evaluator", evaluator):
        students = _distinct(request.students) or (protocol.default_student(data.image_size) or teacher.arch,)
    try:
        return [
            Experiment(
                dataset=dataset,
                method=method,
                ipc=ipc,
                evaluator=evaluator,
                student=student,
                student_stem=teacher.stem_of(student),
                seed=request.seed,
                repeat=repeat,
                student_seed=number,
                recipes=names,
                recipe_files=recipe_files(request.recipes, known),
                changed=tuple(name for name in changed if not name.startswith(MEASURE)),
                measures=measures,
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


def _apply_options(settings: Settings, request: Request) -> None:
    if request.image_size is not None:
        set_image_size(settings, request.image_size)
    if request.arch is not None:
        settings["teacher"]["arch"] = request.arch
    runtime = {"device": request.device, "precision": request.precision, "compile": request.compile}
    settings["runtime"].update({name: value for name, value in runtime.items() if value != "auto"})


def _aliases(request: Request, registry: PluginRegistry, method: str, evaluator: str) -> tuple[SectionAlias, ...]:
    methods = frozenset(distiller.name for distiller in registry.distillers())
    evaluators = frozenset(protocol.name for protocol in registry.evaluators())
    # A name of both a method and a protocol (dsa) is that of the method, unless the user requests the protocol.
    used = set(_protocols_of(request, registry, request.methods))
    used -= set(request.methods) - set(request.evaluators)
    return (
        SectionAlias("method", methods, frozenset(request.methods), method),
        SectionAlias("evaluator", evaluators, frozenset(used), evaluator),
    )
