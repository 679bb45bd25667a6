"""`ddbench figure`: one command per figure. Imports no torch and no matplotlib until a figure is drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddbench.cli import options
from ddbench.core.errors import unknown
from ddbench.figures import FIGURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ddbench.pipeline.workspace import Workspace
    from ddbench.registry.registry import PluginRegistry
    from ddbench.results.records import Record


class _FigureGroup(options.Group):
    """A group that suggests a figure for a misspelt name."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise unknown("figure", args[0], self.commands)
        return super().resolve_command(ctx, args)


_dataset = click.option("--dataset", help="Only records of this dataset.")
_ipc = click.option("--ipc", type=int, help="Only records of this number of images per class.")
_size = click.option("--image-size", type=int, help="Only records of this image size, in pixels.")
_recipes = click.option(
    "--recipe",
    "recipes",
    multiple=True,
    help="Only records of this recipe. Repeat it for records of several recipes, in their order.",
)
_output = click.option(
    "--output",
    type=options.LocalPath(path_type=Path, dir_okay=False),
    help="Files to write, without suffix (default: figures/NAME in the results folder).",
)
_curve_options = options.all_of(_dataset, _size, options.methods, _recipes, options.results, _output)
_image_options = options.all_of(
    _dataset, _ipc, _size, options.methods, _recipes, options.results, options.cache, options.data, _output
)


@click.group("figure", cls=_FigureGroup, subcommand_metavar="NAME [OPTIONS]")
def figure_command() -> None:
    """Draws a figure as SVG and PNG."""


@figure_command.command("barycenter", help=f"{FIGURES['barycenter']}\n\nThis figure needs no data and no records.")
@options.results
@_output
def barycenter(results_dir: Path, output: Path | None) -> None:
    """Draws the figure `barycenter`."""
    from ddbench.figures.barycenter import draw

    _write("barycenter", draw, results_dir, output)


@figure_command.command(
    "grid",
    help=f"{FIGURES['grid']}\n\n"
    "Rows are classes. Columns are methods, or values of a setting in which the records of a method differ.",
)
@_image_options
@click.pass_obj
def grid(registry: PluginRegistry, /, **arguments: Any) -> None:
    """Draws the figure `grid`."""
    from ddbench.figures.grid import draw

    _draw_images("grid", draw, registry, **arguments)


@figure_command.command(
    "embedding", help=f"{FIGURES['embedding']}\n\nThe features are the teacher's. There is one panel per method."
)
@_image_options
@click.pass_obj
def embedding(registry: PluginRegistry, /, **arguments: Any) -> None:
    """Draws the figure `embedding`."""
    from ddbench.figures.embedding import draw

    _draw_images("embedding", draw, registry, **arguments)


@figure_command.command(
    "scaling",
    help=f"{FIGURES['scaling']}\n\nThere is one line per method, at most eight in a panel.",
)
@_curve_options
def scaling(**arguments: Any) -> None:
    """Draws the figure `scaling`."""
    from ddbench.figures.scaling import draw

    _draw_curves("scaling", draw, **arguments)


@figure_command.command(
    "budget",
    help=f"{FIGURES['budget']}\n\nThere is one line per method and IPC, and one marker per label budget.",
)
@_curve_options
def budget(**arguments: Any) -> None:
    """Draws the figure `budget`."""
    from ddbench.figures.budget import draw

    _draw_curves("budget", draw, **arguments)


@figure_command.command(
    "lambda", help=f"{FIGURES['lambda']}\n\nEach method that matches BatchNorm statistics has its own panels."
)
@_ipc
@_curve_options
def regularisation(**arguments: Any) -> None:
    """Draws the figure `lambda`."""
    from ddbench.figures.regularisation import draw

    _draw_curves("lambda", draw, **arguments)


@figure_command.command(
    "compute", help=f"{FIGURES['compute']}\n\nThe records need a curve: --set 'evaluator.measure_at=[10,30,100]'."
)
@_ipc
@_curve_options
def compute(**arguments: Any) -> None:
    """Draws the figure `compute`."""
    from ddbench.figures.compute import draw

    _draw_curves("compute", draw, **arguments)


def _draw_curves(
    name: str,
    draw: Callable[[list[Record], Callable[[str], None]], Figure],
    *,
    results_dir: Path,
    output: Path | None,
    **filters: Any,
) -> None:
    records = _select(results_dir, filters)
    _write(name, lambda: draw(records, options.print_error), results_dir, output)


def _draw_images(
    name: str,
    draw: Callable[[list[Record], Workspace, Callable[[str], None]], Figure],
    registry: PluginRegistry,
    *,
    results_dir: Path,
    cache_dir: Path,
    data_dir: Path | None,
    output: Path | None,
    **filters: Any,
) -> None:
    records = _select(results_dir, filters)

    from ddbench.pipeline.workspace import Workspace

    workspace = Workspace(registry, options.open_cache(cache_dir), data_dir, download=False)
    _write(name, lambda: draw(records, workspace, options.print_error), results_dir, output)


def _select(results_dir: Path, filters: dict[str, Any]) -> list[Record]:
    from ddbench.figures.selecting import Filters, select

    return select(results_dir / "records", Filters(**filters), options.print_error)


def _write(name: str, draw: Callable[[], Figure], results_dir: Path, output: Path | None) -> None:
    from ddbench.figures import style

    stem = output or results_dir / "figures" / name
    with style.look(), style.one_thread():
        for path in style.save(draw(), stem.with_suffix("") if stem.suffix in (".svg", ".png") else stem):
            click.echo(f"written: {path}")
