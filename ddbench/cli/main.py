"""The group of all commands, and the console script with its error handling."""

from __future__ import annotations

import codecs
import io
import sys
from pathlib import Path

import click

from ddbench.cli import options
from ddbench.cli.bundle import submit_command, verify_command
from ddbench.cli.cache import cache_group
from ddbench.cli.compare import compare_command
from ddbench.cli.doctor import doctor_command
from ddbench.cli.evaluate import evaluate_command
from ddbench.cli.figure import figure_command
from ddbench.cli.leaderboard import leaderboard_command
from ddbench.cli.list import list_command
from ddbench.cli.new_plugin import new_plugin_command
from ddbench.cli.records import export_command, records_command, show_command
from ddbench.cli.repeat import repeat_command
from ddbench.cli.report import report_command
from ddbench.cli.run import run_command
from ddbench.cli.table import table_command
from ddbench.cli.tune import tune_command
from ddbench.core import interruption, processes
from ddbench.core.errors import DDBenchError, escape, message_line, os_error_line
from ddbench.registry.plugin_files import add_plugin_files, load_plugin_file
from ddbench.registry.registry import PluginRegistry

ABORTED = 130
"""Exit code of a program that is stopped by Ctrl-C."""


@click.group(cls=options.Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="ddbench", prog_name="ddbench")
@click.option(
    "--plugin",
    "plugins",
    type=options.LocalPath(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="A Python file with hooks, before the command: `ddbench --plugin my_method.py run ...`. Repeat for several.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print no progress, only results, notes and errors.")
@click.option("-v", "--verbose", is_flag=True, help="Print a line for every step of a stage.")
@click.pass_context
def cli(context: click.Context, plugins: tuple[Path, ...], quiet: bool, verbose: bool) -> None:
    """Benchmark for dataset distillation.

    `ddbench run` trains a teacher, distils a dataset, trains students on the distilled images, and prints their top-1
    on the real validation set. The other commands show, compare and export the results.
    """
    from ddbench.cli import progress

    if quiet and verbose:
        raise DDBenchError("--quiet and --verbose: give one of them")
    progress.set_verbosity("quiet" if quiet else "verbose" if verbose else "normal")
    if context.obj is None:
        context.obj = PluginRegistry()
    for path in add_plugin_files(plugins):
        load_plugin_file(path, context.obj.register)


for command in (
    run_command,
    tune_command,
    evaluate_command,
    repeat_command,
    compare_command,
    table_command,
    figure_command,
    report_command,
    leaderboard_command,
    submit_command,
    verify_command,
    list_command,
    show_command,
    records_command,
    export_command,
    new_plugin_command,
    cache_group,
    doctor_command,
):
    cli.add_command(command)


def main() -> None:
    """Runs the console script.

    Invalid input ends with one line on stderr and exit code 2, Ctrl-C with one line and exit code 130.

    Raises:
        SystemExit: If the command fails or is stopped.
    """
    _escape_unencodable()
    processes.silence_nonzero_ranks()
    try:
        registry = PluginRegistry()
        registry.add_commands(cli)
        cli.main(standalone_mode=False, obj=registry)
    except DDBenchError as error:
        fail(str(error), 2)
    except (click.exceptions.Abort, KeyboardInterrupt):
        fail("stopped by Ctrl-C", ABORTED)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.NoSuchOption as error:
        usage = {"--plugin": "--plugin FILE", **{name: name for name in ("-q", "--quiet", "-v", "--verbose")}}
        option = usage.get(error.option_name)
        advice = f"write {option} before the command: ddbench {option} run ..."
        fail(advice if option else error.format_message(), error.exit_code)
    except click.ClickException as error:
        fail(error.format_message(), error.exit_code)
    except click.exceptions.Exit as signal:
        sys.exit(signal.exit_code)
    except interruption.Stopped as stopped:
        code = interruption.EXIT_CODES[stopped.reason]
        fail(f"stopped by {stopped.reason}; run the same command again to resume", code)
    except OSError as error:  # a fault of the machine, e.g. a full disk for redirected stdout or a lost mount
        fail(os_error_line(error, "output"), 2)


def _escape_unencodable() -> None:
    """Makes stdout and stderr write escapes for characters that their encoding lacks, and for bytes of file names."""

    def handle(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        return escape(error.object[error.start : error.end]), error.end

    codecs.register_error("ddbench", handle)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="ddbench")


def fail(message: str, code: int) -> None:
    """Closes the progress display, prints a message in one line on stderr, and exits.

    Args:
        message: The message. Line breaks become spaces.
        code: The exit code.

    Raises:
        SystemExit: Always.
    """
    from ddbench.cli import progress

    progress.close()
    options.print_error(message_line(f"ddbench: {message}"))
    sys.exit(code)
