"""The command line: thin, no logic, no torch until a run starts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ddbench import __version__
from ddbench.cli import options
from ddbench.cli.figure import figure_command
from ddbench.cli.report import report_command
from ddbench.cli.table import table_command
from ddbench.core import interruption, processes
from ddbench.core.errors import DDBenchError
from ddbench.execution import choose, launch
from ddbench.registry.registry import PluginRegistry

KINDS = ("methods", "evaluators", "datasets", "models", "recipes", "tables")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ddbench")
@click.pass_context
def cli(context: click.Context) -> None:
    """Benchmark for dataset distillation: teacher, distil, evaluate, compare."""
    if context.obj is None:
        context.obj = PluginRegistry()


@cli.command("run")
@click.option("--method", "methods", multiple=True, required=True, help="Distiller; repeat for a grid.")
@click.option("--dataset", "datasets", multiple=True, required=True, help="Dataset; repeat for a grid.")
@click.option("--ipc", "ipcs", type=int, multiple=True, help="Images per class; repeat for a grid.")
@click.option("--student", "students", multiple=True, help="Network of the student; repeat (default: the teacher's).")
@click.option("--evaluator", help="Protocol (default: fkd; full-data for the method full).")
@options.experiment
@options.executor
@options.time_limit
@options.data
@options.results
@options.cache
@click.option("--dry-run", is_flag=True, help="Say what is cached and what is to do, with the whole configuration.")
@click.option("--force", type=options.StageName(), multiple=True, help="Compute this stage and those after it anew.")
@click.pass_obj
def run_command(
    registry: PluginRegistry,
    /,
    results_dir: Path,
    cache_dir: Path,
    data_dir: Path | None,
    dry_run: bool,
    force: tuple[str, ...],
    time_limit: float | None,
    executor: str,
    ray_address: str | None,
    assignments: tuple[str, ...],
    **asked: Any,
) -> None:
    """Distil and evaluate: prints top-1 on the real validation set, writes a record.

    With --set data.holdout=0.1 top-1 is that on a tenth of the training images, kept away from everything else.
    Stages that were computed before are read from the cache; an interrupted run goes on where it was.
    """
    from ddbench.pipeline.request import Request, experiments

    where, assignments = choose.choose(executor, ray_address, assignments, registry)
    cells = experiments(Request(**asked, assignments=assignments), registry)

    from ddbench.pipeline import run as running
    from ddbench.pipeline.workspace import Workspace

    cache = options.open_cache(cache_dir, frozenset(force))
    workspace = Workspace(registry, cache, data_dir, download=not dry_run, executor=where)
    if dry_run:
        running.dry_run(cells, workspace, click.echo)
        return

    def work() -> int:
        with interruption.handle_signals(time_limit and time_limit * 60):
            return len(running.run(cells, workspace, results_dir, options.print_result, options.print_error))

    if launch.run_distributed(work, workspace) not in (None, len(cells)):
        sys.exit(1)


cli.add_command(table_command)
cli.add_command(figure_command)
cli.add_command(report_command)


@cli.command("list")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name", required=False)
@click.pass_obj
def list_command(registry: PluginRegistry, kind: str, name: str | None) -> None:
    """What is installed; with NAME, every parameter with type, default and meaning."""
    from ddbench.cli import listing

    click.echo(listing.text(kind, name, registry))


@cli.command("show")
@click.argument("run", required=False)
@options.results
def show_command(run: str | None, results_dir: Path) -> None:
    """A record, readable: RUN is its name or the beginning of it (default: the newest)."""
    from ddbench.results import records
    from ddbench.results import text as results_text

    click.echo(results_text.record_text(records.read(records.find(results_dir / "records", run))))


@cli.command("records")
@click.option("--format", "form", type=click.Choice(["text", "csv", "json"]), default="text", show_default=True)
@click.option("--scores", "scored", is_flag=True, help="Scores of comparable records: over random, under hard labels.")
@options.results
def records_command(form: str, scored: bool, results_dir: Path) -> None:
    """All records in one table, a row each; csv and json give every column."""
    from ddbench.results import text as results_text

    click.echo(results_text.overview(results_dir / "records", form, scored, options.print_error))


@cli.command("export")
@click.argument("run")
@click.option(
    "--format",
    "form",
    type=click.Choice(["imagefolder", "safetensors"]),
    default="imagefolder",
    show_default=True,
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder to make.")
@options.data
@options.results
@options.cache
@click.pass_obj
def export_command(
    registry: PluginRegistry,
    run: str,
    form: str,
    output: Path,
    data_dir: Path | None,
    results_dir: Path,
    cache_dir: Path,
) -> None:
    """Writes the distilled images of a record, with weights and a card, for use outside."""
    from ddbench.pipeline.workspace import Workspace
    from ddbench.results import records
    from ddbench.results.export import export_run

    record = records.read(records.find(results_dir / "records", run))
    workspace = Workspace(registry, options.open_cache(cache_dir), data_dir)
    click.echo(f"written: {export_run(record, workspace.cache, workspace.dataset, output, form)}")


@cli.command("new-plugin")
@click.argument("name")
@click.option("--evaluator", is_flag=True, help="A protocol in place of a method.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    show_default=True,
    help="Folder to write it to.",
)
@click.pass_obj
def new_plugin_command(registry: PluginRegistry, name: str, evaluator: bool, output: Path) -> None:
    """Writes ddbench-NAME: a package with one method that works, and its tests."""
    from ddbench.registry.scaffold import new_plugin

    click.echo(f"written: {new_plugin(registry, name, 'evaluator' if evaluator else 'method', output)}")


@cli.group("cache")
def cache_group() -> None:
    """The folder of teachers, statistics and distilled sets."""


@cache_group.command("ls")
@options.cache
def cache_ls(cache_dir: Path) -> None:
    """Every artifact: stage, key, size, age."""
    from ddbench.results import text as results_text

    click.echo(results_text.cache_text(options.open_cache(cache_dir).entries()))


@cache_group.command("prune")
@click.option("--stage", type=options.StageName("checkpoints"), multiple=True, help="Only this stage; repeat.")
@click.option("--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="Only what is older.")
@options.cache
def cache_prune(cache_dir: Path, stage: tuple[str, ...], older_than: float | None) -> None:
    """Removes artifacts; what is needed again is computed again."""
    if not stage and older_than is None:
        raise DDBenchError("cache prune: say what: --stage STAGE, or --older-than DAYS (0 is everything)")
    count, size = options.open_cache(cache_dir).prune(frozenset(stage), (older_than or 0.0) * 86400)
    click.echo(f"removed {count} files, {size / 2**20:.1f} MB")


def main() -> None:
    """The console script: bad input is one line and exit code 2; Ctrl-C is one line and 130."""
    processes.silence_nonzero_ranks()
    try:
        registry = PluginRegistry()
        registry.add_commands(cli)
        cli.main(standalone_mode=False, obj=registry)
    except DDBenchError as error:
        fail(str(error), 2)
    except click.exceptions.Abort:
        fail("stopped; the same command goes on from the last checkpoint", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        fail(error.format_message(), error.exit_code)
    except click.exceptions.Exit as signal:
        sys.exit(signal.exit_code)
    except KeyboardInterrupt:
        fail("stopped; the same command goes on from the last checkpoint", 130)
    except interruption.Stopped as stopped:
        fail(f"stopped by {stopped.reason}; the same command goes on from here", interruption.EXIT_CODES[stopped.reason])
    except OSError as error:  # the machine's answer, not a fault of ours: a full disk below stdout, a lost mount
        fail(f"{error.filename or 'output'}: {error.strerror or error}", 2)


def fail(text: str, code: int) -> None:
    """One line on stderr, below whatever the progress display has drawn, then out."""
    from ddbench.cli import progress

    progress.close()
    options.print_error(f"ddbench: {' '.join(text.splitlines())}")
    sys.exit(code)
