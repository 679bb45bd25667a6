"""Command-line options that several commands share, and helpers to print results and open the cache."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ddbench.core.errors import DDBenchError, message_line, unknown
from ddbench.core.files import user_cache_dir
from ddbench.execution import choose

if TYPE_CHECKING:
    from ddbench.registry.registry import PluginRegistry
    from ddbench.storage.cache import Cache

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Command(click.Command):
    """A command that refuses a second value of an option that takes one. (click would ignore the first value.)"""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for parameter, count in Counter(given).items():
            if isinstance(parameter, click.Option) and count > 1 and not (parameter.multiple or parameter.is_flag):
                raise DDBenchError(f"{parameter.opts[0]} takes one value, and is given {count} times")
        return super().parse_args(ctx, args)


class Group(click.Group):
    """A group of such commands."""

    command_class = Command


command = partial(click.command, cls=Command)
"""Declares such a command."""


class StageName(click.ParamType):  # type: ignore[type-arg]
    """The name of a registered stage, or one of `others`."""

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


class LocalPath(click.Path):
    """A path of this machine, as a Path. URLs are refused, because they would name a local folder such as `s3:`."""

    accepts_urls = False

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        url = re.fullmatch(r"([A-Za-z][A-Za-z0-9+]+):(//?)(.*)", str(value))
        if url is None:
            return super().convert(value, param, ctx)
        name = param.opts[0] if param else "path"
        if not self.accepts_urls:
            raise DDBenchError(
                f"{name} {value}: a path of this machine is needed (for a folder '{url[1]}:', ./{value})"
            )
        if url[2] == "/":
            corrected = f"{url[1]}://{'/' if url[1] == 'file' else ''}{url[3]}"
            raise DDBenchError(f"{name} {value}: write the URL as {corrected} (for a folder '{url[1]}:', ./{value})")
        return str(value)


class _FolderOrUrl(LocalPath):
    """A folder as a Path, or the URL of a folder on shared storage as text."""

    accepts_urls = True


class _ResultsFolder(_FolderOrUrl):
    """A folder as a Path. For a URL, the Path is the local copy, whose files are uploaded when they are written."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return open_results(super().convert(value, param, ctx))


results = click.option(
    "--results-dir",
    type=_ResultsFolder(path_type=Path, file_okay=False),
    default=Path("results"),
    show_default=True,
    help="Folder or URL (s3://...) of records and pictures.",
)
cache = click.option(
    "--cache-dir",
    type=_FolderOrUrl(path_type=Path),
    default=user_cache_dir,
    envvar="DDBENCH_CACHE",
    help="Folder or URL (s3://...) of teachers, statistics and distilled sets (default: ddbench in XDG_CACHE_HOME, "
    "else in ~/.cache). Environment variable: DDBENCH_CACHE.",
)
data = click.option(
    "--data-dir",
    type=LocalPath(path_type=Path),
    envvar="DDBENCH_DATA",
    help="Folder of the datasets. Environment variable: DDBENCH_DATA.",
)
strict = click.option(
    "--strict",
    is_flag=True,
    help="Refuse a run with possible data leakage, e.g. validation images that are copies of training images.",
)
wide = click.option(
    "--wide", is_flag=True, help="Print all columns, each row in one line (default: the width of the terminal)."
)
time_limit = click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MINUTES",
    help="Save a checkpoint and stop after this time, with exit code 124. The same command resumes.",
)


def all_of(*decorators: Callable[[Decorated], Decorated]) -> Callable[[Decorated], Decorated]:
    """Combines decorators into one.

    Args:
        decorators: Decorators, in the order in which they would be written above a function.

    Returns:
        A decorator that applies all of them.
    """

    def decorate(command: Decorated) -> Decorated:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def _refuse_repetition(_: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    """Refuses two values of one setting, and the same recipe twice."""
    is_setting = parameter.name == "assignments"
    names = Counter(text.partition("=")[0].strip() if is_setting else text for text in texts)
    for name, count in names.items():
        if count > 1:
            raise DDBenchError(f"{parameter.opts[0]} {name} is given {count} times")
    return texts


executor = all_of(
    click.option(
        "--executor",
        type=click.Choice(choose.NAMES),
        default="inline",
        show_default=True,
        help="Compute in this process (inline) or in Ray workers (ray).",
    ),
    click.option(
        "--ray-address",
        envvar="RAY_ADDRESS",
        help="Address of a Ray cluster (default: start Ray on this machine). Environment variable: RAY_ADDRESS.",
    ),
)
"""`--executor` and `--ray-address`: arguments of `ddbench.execution.choose.choose`."""

experiment = all_of(
    click.option(
        "--recipe",
        "recipes",
        multiple=True,
        callback=_refuse_repetition,
        help="Recipe name or YAML file (default: paper, or quick if paper has no sizes for the dataset). Can be "
        "repeated; later recipes override earlier ones.",
    ),
    click.option("--image-size", type=int, help="Side of the images in pixels (default: the recipe's)."),
    click.option("--arch", help="Network of the teacher (default: the recipe's)."),
    click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Base seed."),
    click.option(
        "--seeds",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Number of students per distilled set.",
    ),
    click.option(
        "--repeats", type=click.IntRange(min=1), default=1, show_default=True, help="Number of distilled sets."
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16"]),
        default="auto",
        show_default=True,
        help="Floating-point precision of the networks (auto: bf16 if the device has fast bf16, else fp32).",
    ),
    click.option(
        "--compile",
        type=click.Choice(["auto", "on", "off"]),
        default="auto",
        show_default=True,
        help="Compile the teacher in methods that optimise images through it (auto: if it saves time).",
    ),
    click.option(
        "--set",
        "assignments",
        multiple=True,
        callback=_refuse_repetition,
        metavar="SECTION.NAME=VALUE",
        help="Override a setting of the recipe. Can be repeated for other settings.",
    ),
)
"""The options of all commands that run experiments: fields of `ddbench.pipeline.request.Request`."""


def _refuse_alone(context: click.Context, parameter: click.Parameter, verbose: bool) -> bool:
    """Refuses `--verbose` without `--dry-run`."""
    if verbose and not context.params["dry_run"]:
        raise DDBenchError("--verbose: give --dry-run too")
    return verbose


dry_run = all_of(
    click.option(
        "--dry-run",
        is_flag=True,
        is_eager=True,
        help="Print cells, states of stages, time and settings. Compute nothing.",
    ),
    click.option(
        "--verbose",
        is_flag=True,
        callback=_refuse_alone,
        help="With --dry-run: print the whole configuration of each cell too.",
    ),
)


def names(
    *declarations: str,
    required: bool = False,
    help: str,
    type: click.ParamType[Any] = click.STRING,
    pattern: str = r"[^,\s][^,]*?(?=\s*(?:,|$))",
) -> Callable[[Decorated], Decorated]:
    """Declares an option that takes several values, separated by commas or in several options.

    Args:
        declarations: The spellings of the option, and the name of the argument if it is another one.
        required: Whether at least one value is needed.
        help: The help text, in a sentence.
        type: The type of a value.
        pattern: The pattern of a value in the text of an option.
    """

    def split(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[Any, ...]:
        values = [value for text in texts for value in re.findall(pattern, text, re.DOTALL)]
        if texts and not values:
            raise DDBenchError(f"{parameter.opts[0]}: there is no value")
        return tuple(type.convert(value, parameter, context) for value in values)

    more = f"{help} Several: with commas, or repeat the option."
    metavar = type.name.upper()
    return click.option(*declarations, multiple=True, required=required, callback=split, help=more, metavar=metavar)


def datasets(help: str, required: bool = False) -> Callable[[Decorated], Decorated]:
    """Declares `--dataset`. The path of an image folder may contain commas.

    Args:
        help: The help text, in a sentence.
        required: Whether at least one name is needed.
    """
    pattern = r"imagefolder:.*?(?=\s*,\s*imagefolder:|$)|[^,\s][^,]*?(?=\s*(?:,|$))"
    return names("--dataset", "datasets", required=required, help=help, pattern=pattern)


def ipcs(help: str) -> Callable[[Decorated], Decorated]:
    """Declares `--ipc`.

    Args:
        help: The help text, in a sentence.
    """
    return names("--ipc", "ipcs", type=click.INT, help=help)


force = names("--force", type=StageName(), help="Recompute this stage and the stages that depend on it.")
methods = names("--method", "--methods", "methods", help="Only these methods.")
measures = names(
    "--measure", "--measures", "measures", help="Numbers of students and sets beside top-1 (ddbench list measures)."
)
students = names(
    "--student", "students", help="Networks of the students (default: that of the protocol, else the teacher's)."
)


@contextlib.contextmanager
def kept_tracebacks(registry: PluginRegistry, results_dir: Path) -> Iterator[None]:
    """Stores the tracebacks of plugin code that fails in the block in the results folder, also those of observers.

    Args:
        registry: The registered plugins.
        results_dir: Folder of the results.
    """
    from ddbench.results.failures import traceback_kept, write_traceback

    registry.keep_tracebacks(partial(write_traceback, results_dir=results_dir))
    with traceback_kept("plugin", results_dir):
        yield


def print_result(text: str) -> None:
    """Closes the progress display and prints a result on stdout.

    Args:
        text: One or more lines.
    """
    from ddbench.cli import progress

    progress.close()
    click.echo(text)


def print_error(text: str) -> None:
    """Prints a message on stderr.

    Args:
        text: One or more lines. Each is shown as `message_line` formats it.
    """
    click.echo("\n".join(map(message_line, text.splitlines())), err=True)


def open_results(location: str | os.PathLike[str]) -> Path:
    """Returns the folder of the results.

    Args:
        location: Path of a folder, or the URL of a folder on shared storage.

    Returns:
        The folder. For a URL, it is the local copy, whose files are uploaded when they are written.
    """
    from ddbench.storage import remote_folder, remote_results

    if isinstance(location, str) and remote_folder.is_url(location):
        return remote_results.open_results(location, print_error)
    return Path(location)


def open_cache(location: Path | str, force: tuple[str, ...] = ()) -> Cache:
    """Opens the cache in a folder or at a URL.

    Args:
        location: Path of a folder, or the URL of a folder on shared storage.
        force: Stages whose artifacts are recomputed.

    Returns:
        The cache.
    """
    from ddbench.storage import remote_cache

    return remote_cache.open_cache(location, frozenset(force), print_error)
