"""`ddbench figure`: a command for each figure, with the options that it can use. Imports no torch and no matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ddbench.cli import options
from ddbench.core.errors import unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ddbench.pipeline.workspace import Workspace
    from ddbench.registry.registry import PluginRegistry
    from ddbench.results.records import Record

Command = TypeVar("Command", bound=Callable[..., Any])


class _Figures(click.Group):
    """A group whose commands are figures: a name that is none of them gets a "did you mean"."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise unknown("figure", args[0], self.commands)
        return super().resolve_command(ctx, args)


_dataset = click.option("--dataset", help="Only records of this dataset.")
_ipc = click.option("--ipc", type=int, help="Only records with so many images per class.")
_size = click.option("--image-size", type=int, help="Only records of this image size, in pixels.")
_recipes = click.option("--recipe", "recipes", multiple=True, help="Only records of this recipe; repeat for several.")
_output = click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Files to write, without ending  [default: RESULTS/figures/NAME]",
)


def _all_of(*parts: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for part in reversed(parts):
            command = part(command)
        return command

    return decorate


_curves = _all_of(_dataset, _size, options.methods, _recipes, options.results, _output)
_images = _all_of(
    _dataset, _ipc, _size, options.methods, _recipes, options.results, options.cache, options.data, _output
)


@click.group("figure", cls=_Figures, subcommand_metavar="NAME [OPTIONS]")
def figure_command() -> None:
    """Draws a figure of the paper anew, as SVG and PNG."""


@figure_command.command("barycenter")
@_all_of(options.results, _output)
def barycenter(results_dir: Path, output: Path | None) -> None:
    """Figure 1: barycenters under KL, MMD and Wasserstein.

    It needs no data.
    """
    from ddbench.figures.barycenter import draw

    _write("barycenter", draw, results_dir, output)


@figure_command.command("grid")
@_images
@click.pass_obj
def grid(registry: PluginRegistry, /, **asked: Any) -> None:
    """Figures 6 to 10: distilled images side by side.

    Rows are classes, columns methods, or values of a setting in which records of a method differ.
    """
    from ddbench.figures.grid import draw

    _of_images("grid", draw, registry, **asked)


@figure_command.command("embedding")
@_images
@click.pass_obj
def embedding(registry: PluginRegistry, /, **asked: Any) -> None:
    """Figure 4: t-SNE of real and distilled features.

    Features of the teacher, a panel for each method.
    """
    from ddbench.figures.embedding import draw

    _of_images("embedding", draw, registry, **asked)


@figure_command.command("scaling")
@_curves
def scaling(**asked: Any) -> None:
    """Top-1 over images per class, beside the published.

    A line for each method, a panel for each protocol and dataset.
    """
    from ddbench.figures.scaling import draw

    _of_records("scaling", draw, **asked)


@figure_command.command("lambda")
@_all_of(_ipc, _curves)
def regularisation(**asked: Any) -> None:
    """Figure 5a: top-1 over lambda, method.bn_weight.

    A line for each method that matches BatchNorm statistics.
    """
    from ddbench.figures.regularisation import draw

    _of_records("lambda", draw, **asked)


def _of_records(
    name: str,
    draw: Callable[[list[Record], Callable[[str], None]], Figure],
    *,
    results_dir: Path,
    output: Path | None,
    **asked: Any,
) -> None:
    found = _selected(results_dir, asked)
    _write(name, lambda: draw(found, options.print_error), results_dir, output)


def _of_images(
    name: str,
    draw: Callable[[list[Record], Workspace, Callable[[str], None]], Figure],
    registry: PluginRegistry,
    *,
    results_dir: Path,
    cache_dir: Path,
    data_dir: Path | None,
    output: Path | None,
    **asked: Any,
) -> None:
    found = _selected(results_dir, asked)

    from ddbench.pipeline.workspace import Workspace

    workspace = Workspace(registry, options.open_cache(cache_dir), data_dir, download=False)
    _write(name, lambda: draw(found, workspace, options.print_error), results_dir, output)


def _selected(results_dir: Path, asked: dict[str, Any]) -> list[Record]:
    from ddbench.figures.selecting import Filters, select

    return select(results_dir / "records", Filters(**asked), options.print_error)


def _write(name: str, draw: Callable[[], Figure], results_dir: Path, output: Path | None) -> None:
    from ddbench.figures import style

    stem = output or results_dir / "figures" / name
    with style.look(), style.one_thread():
        for path in style.save(draw(), stem.with_suffix("") if stem.suffix in (".svg", ".png") else stem):
            click.echo(f"written: {path}")
