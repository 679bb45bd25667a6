"""Command-line options that several commands share. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ddbench.core.errors import unknown
from ddbench.execution import choose

if TYPE_CHECKING:
    from ddbench.storage.cache import Cache

Command = TypeVar("Command", bound=Callable[..., Any])


class _Place(click.Path):
    """A folder, or the URL of one on shared storage (a text)."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if "://" in str(value) else super().convert(value, param, ctx)


class _Results(_Place):
    """A folder; of results on shared storage the local copy, which publishes what is written there."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if isinstance(found, Path):
            return found
        from ddbench.storage.remote_cache import open_results

        return open_results(str(found), print_error)


class StageName(click.ParamType):  # type: ignore[type-arg]
    """The name of a stage, or one of `others`."""

    name = "stage"

    def __init__(self, *others: str) -> None:
        self._others = others

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from ddbench.pipeline.graph import stage_graph

        assert ctx is not None
        names = (*stage_graph(ctx.find_root().obj).names, *self._others)
        if value not in names:
            raise unknown("stage", value, names)
        return str(value)


results = click.option(
    "--results-dir",
    type=_Results(path_type=Path, file_okay=False),
    default=Path("results"),
    show_default=True,
    help="Folder of records and pictures, or a URL (s3://..., docs/scaling.md).",
)
cache = click.option(
    "--cache-dir",
    type=_Place(path_type=Path),
    default=Path("~/.cache/ddbench"),
    envvar="DDBENCH_CACHE",
    show_default=True,
    help="Folder of teachers, statistics, distilled sets, or a URL (s3://..., docs/scaling.md; also DDBENCH_CACHE).",
)
data = click.option(
    "--data-dir", type=click.Path(path_type=Path), envvar="DDBENCH_DATA", help="Folder of the datasets."
)
time_limit = click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MINUTES",
    help="Save and stop after so long (exit code 124); the same command goes on.",
)
_EXECUTOR = (
    click.option(
        "--executor",
        type=click.Choice(choose.NAMES),
        default="inline",
        show_default=True,
        help="Where it is computed: in this process, or by Ray's workers (docs/scaling.md).",
    ),
    click.option(
        "--ray-address",
        envvar="RAY_ADDRESS",
        help="Ray cluster (also RAY_ADDRESS); without one Ray is started on this machine.",
    ),
)
_EXPERIMENT = (
    click.option("--recipe", "recipes", multiple=True, help="Named hyper-parameters or a YAML file; later wins."),
    click.option("--image-size", type=int, help="Side of the images, in pixels (default: the recipe's)."),
    click.option("--arch", help="Network of the teacher (default: the recipe's)."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Base seed."),
    click.option(
        "--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Students on one distilled set."
    ),
    click.option("--repeats", type=click.IntRange(min=1), default=1, show_default=True, help="Distilled sets."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True),
    click.option(
        "--compile",
        type=click.Choice(["auto", "on", "off"]),
        default="auto",
        show_default=True,
        help="Compile the network of the recover loop (auto: where that pays).",
    ),
    click.option("--set", "assignments", multiple=True, metavar="A.B=VALUE", help="Overrides one setting; repeat."),
)


def _names(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.strip() for value in values for name in value.split(",") if name.strip())


methods = click.option("--methods", multiple=True, callback=_names, help="Only these: names with commas, or repeat.")


def experiment(command: Command) -> Command:
    """Adds the options of every command that runs experiments: fields of `ddbench.pipeline.request.Request`."""
    for option in reversed(_EXPERIMENT):
        command = option(command)
    return command


def executor(command: Command) -> Command:
    """Adds `--executor` and `--ray-address`: arguments of `ddbench.execution.choose.choose`."""
    for option in reversed(_EXECUTOR):
        command = option(command)
    return command


def print_result(text: str) -> None:
    """Prints a result on stdout, below the progress display."""
    from ddbench.cli import progress

    progress.close()
    click.echo(text)


def print_error(text: str) -> None:
    """A line for a person on stderr."""
    click.echo(text, err=True)


def open_cache(place: Path | str, force: frozenset[str] = frozenset(), builds: bool = True) -> Cache:
    """The cache in a folder or at a URL; without `builds` nothing is computed."""
    from ddbench.storage import remote_cache

    return remote_cache.open_cache(place, force, print_error, builds)
