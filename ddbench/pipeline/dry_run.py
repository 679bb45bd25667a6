"""The plan of `--dry-run`: the cells with the states of their stages, the time, and the settings."""

from __future__ import annotations

import itertools
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import yaml
from pydantic import BaseModel

from ddbench.api.dataset import MissingDataError
from ddbench.config.datasets import dataset_name, own_name
from ddbench.config.experiment import Experiment
from ddbench.config.recipes import Recipe
from ddbench.core.text import counted, value_text
from ddbench.core.text_layout import format_rows
from ddbench.pipeline.checks import check_leaks, check_networks, open_grid
from ddbench.pipeline.composition import matching_blocks
from ddbench.pipeline.estimate import Estimate, readable
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.workspace import Workspace

DEFAULT_WIDTH = 100
"""Characters per line of the settings where there is no terminal."""
DEFAULT = "default"
"""The source of a setting that has its default value."""
OPTIONS = {
    "data.image_size": "--image-size",
    "data.stored_size": "--image-size",
    "teacher.arch": "--arch",
    "runtime.device": "--device",
    "runtime.precision": "--precision",
    "runtime.compile": "--compile",
}
"""The options that set a value after the recipes."""


def dry_run(
    experiments: Sequence[Experiment],
    workspace: Workspace,
    known: Sequence[Recipe],
    echo: Callable[[str], None],
    verbose: bool = False,
    strict: bool = False,
) -> None:
    """Prints a row for each cell with the states of its stages and its time, and the settings that are not defaults.

    It computes nothing. Without the files of a dataset, the states and times of its cells are not known.

    Args:
        experiments: The cells.
        workspace: The objects that the cells share.
        known: All recipes.
        echo: Prints a text.
        verbose: Whether to print the whole configuration of each cell too. The output is then a stream of YAML
            documents; the plan is a comment.
        strict: Whether a grid with a possible data leak is refused.

    Raises:
        DDBenchError: A cell cannot run.
    """
    missing = _missing_data(experiments, workspace)
    pipelines = open_grid([each for each in experiments if each.dataset not in missing], workspace)
    leaks = check_leaks(pipelines, strict)
    check_networks(pipelines)
    total = Estimate()
    possible = iter(pipelines)
    of_cells = [None if each.dataset in missing else next(possible) for each in experiments]
    by_cell = [_states(pipeline, total) if pipeline else {} for pipeline in of_cells]
    columns = [stage.name for stage in workspace.graph if any(stage.name in state for state in by_cell)]
    columns += ["takes about"] if pipelines else []
    rows = [
        {**_labels(experiment), **{name: state.get(name, "") for name in columns}}
        for experiment, state in zip(experiments, by_cell, strict=True)
    ]
    lines = format_rows(rows, ("method",)).splitlines()
    lines += ["", *leaks, *(f"states and times are not known: {reason}" for reason in missing.values())]
    if pipelines:
        about = f"in all about {readable(total.total)} on this device" if total.total else "everything is in the cache"
        lines += [f"{counted(len(experiments), 'cell')}: {about}", *filter(None, [total.detail])]
    if any("shared" in row.values() for row in rows):
        lines.append("shared: an earlier cell of this grid computes it")
    lines += ["", *_setting_lines(experiments, known)]
    if not verbose:
        echo("\n".join([*lines, "", "all settings of each cell: --verbose"]))
        return
    echo("\n".join(f"# {line}".rstrip() for line in lines))
    for given, pipeline in zip(experiments, of_cells, strict=True):
        experiment = pipeline.experiment if pipeline else given
        echo(f"---\n# {experiment.name}\n{yaml.safe_dump(experiment.public(), sort_keys=False).rstrip()}")


def _missing_data(experiments: Iterable[Experiment], workspace: Workspace) -> dict[str, str]:
    """Returns the datasets whose files do not exist, with the reason."""
    missing = {}
    for experiment in experiments:
        try:
            workspace.dataset(experiment.dataset, experiment.data)
        except MissingDataError as error:
            missing[experiment.dataset] = str(error)
    return missing


def _labels(experiment: Experiment) -> dict[str, str]:
    trial = experiment.trial or {}
    settings = ", ".join(f"{name}={value_text(value)}" for name, value in trial.get("settings", {}).items())
    return {
        **({"trial": f"{trial['trial']}: {settings or 'defaults'}"} if trial else {}),
        "method": experiment.method_name,
        "dataset": dataset_name(experiment.dataset),
        "ipc": "all" if experiment.ipc is None else str(experiment.ipc),
        "set": str(experiment.repeat),
        "protocol": experiment.evaluator_name,
        "student": experiment.student,
        "seed": str(experiment.seed + experiment.student_seed),
    }


def _states(pipeline: Pipeline, total: Estimate) -> dict[str, str]:
    """Returns the state of each stage, and under `takes about` the time of what no earlier cell computes."""
    states = dict(pipeline.plan())
    fresh = {stage for stage, _ in total.new_parts(pipeline).values()}
    states = {name: state if state == "cached" or name in fresh else "shared" for name, state in states.items()}
    seconds = total.add(pipeline)
    return {**states, "takes about": readable(seconds) if seconds else ""}


def _setting_lines(experiments: Iterable[Experiment], known: Sequence[Recipe]) -> list[str]:
    """Returns the settings that are not defaults, a paragraph for each source."""
    settings: dict[str, dict[tuple[str, str], list[dict[str, str]]]] = {}
    for experiment in experiments:
        labels = _labels(experiment)
        labels["ipc"] = f"IPC {labels['ipc']}"
        for source, name, value in _sources(experiment, known):
            settings.setdefault(name, {}).setdefault((source, value), []).append(labels)
    texts: dict[str, list[str]] = {}
    for name, cells in settings.items():
        values: dict[str, list[str]] = {}
        for (source, value), label in zip(cells, _distinct_labels(list(cells.values())), strict=True):
            values.setdefault(source, []).append(value + label)
        for source, parts in values.items():
            texts.setdefault(source, []).append(f"{name}={' or '.join(parts)}")
    texts.pop(DEFAULT, None)
    width = shutil.get_terminal_size(fallback=(DEFAULT_WIDTH, 24)).columns
    lines = ["settings that are not defaults, by source:"] if texts else []
    for source, parts in texts.items():
        lines += textwrap.wrap(
            f"{source}: {', '.join(parts)}",
            width,
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def _distinct_labels(groups: Sequence[Sequence[Mapping[str, str]]]) -> list[str]:
    """Returns a label for each group of cells, with the fewest columns that distinguish the groups; one needs none."""
    if len(groups) == 1:
        return [""]
    names = ("dataset", "ipc", "protocol", "method")
    for chosen in itertools.chain.from_iterable(itertools.combinations(names, n + 1) for n in range(len(names))):
        texts = [dict.fromkeys(" ".join(cell[name] for name in chosen) for cell in group) for group in groups]
        if sum(map(len, texts)) == len(set().union(*texts)):
            break
    return [f" ({', '.join(text)})" for text in texts]


def _sources(experiment: Experiment, known: Sequence[Recipe]) -> Iterator[tuple[str, str, str]]:
    """Yields the source, the name and the value of each setting. The source of a default value is `DEFAULT`.

    Settings that a search varies are left out: the column `trial` has them.
    """
    searched = (experiment.trial or {}).get("settings", ())
    owners = {"method": experiment.method_name, "evaluator": experiment.evaluator_name}
    dataset = own_name(dataset_name(experiment.dataset))
    names = (experiment.recipes, dataset, experiment.method_name, experiment.ipc, experiment.evaluator_name)
    in_recipes = {
        f"{section}.{name}": (f"recipe {recipe.name}", value)
        for recipe, block in matching_blocks(known, *names)
        for section, values in block.settings.items()
        for name, value in values.items()
    }
    for section in ("data", "teacher", "statistics", "distill", "method", "evaluator", "runtime"):
        settings: BaseModel = getattr(experiment, section)
        for name, field in type(settings).model_fields.items():
            value, key = getattr(settings, name), f"{section}.{name}"
            if key in searched or f"{owners.get(section)}.{name}" in searched:
                continue
            source, in_recipe = in_recipes.get(key, ("derived", None))
            if not field.is_required() and value == field.get_default(call_default_factory=True, validated_data={}):
                source = DEFAULT
            elif key in experiment.changed:
                source = "--set"
            elif key in OPTIONS and value != in_recipe:
                source = OPTIONS[key]
            elif value is None and in_recipe is not None:  # the epochs of a recipe that --set replaces by steps
                source = "derived"
            # A protocol can have the name of a method, for which `--set NAME.` stands then.
            yield source, key.replace("method.", f"{experiment.method_name}."), value_text(value)
