"""`ddbench submit` and `ddbench verify`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddbench.cli import options
from ddbench.cli.repeat import record_path, repeat_record

if TYPE_CHECKING:
    from ddbench.registry.registry import PluginRegistry


@options.command("submit")
@click.argument("named", nargs=-1, required=True, metavar="RECORD...")
@click.option(
    "--output",
    type=options.LocalPath(path_type=Path),
    default=Path("bundle.zip"),
    show_default=True,
    help="ZIP file to write, or folder if the name does not end with .zip.",
)
@options.results
@options.cache
def submit_command(named: tuple[str, ...], output: Path, results_dir: Path, cache_dir: Path) -> None:
    """Writes a bundle of records to send.

    RECORD is the name of a record, a unique prefix of it, or the path of a record. The bundle holds the records, a
    card, the distilled images, previews, and a digest of every file. Real images are not sent. `ddbench verify` checks
    it.
    """
    from ddbench.results import bundle

    paths = [record_path(name, results_dir) for name in named]
    cache = options.open_cache(cache_dir)
    click.echo(f"written: {bundle.write(paths, results_dir, cache, output, options.print_error)}")


@options.command("verify")
@click.argument("path", metavar="BUNDLE", type=options.LocalPath(path_type=Path))
@click.option("--repeat", is_flag=True, help="Compute every record again, as ddbench repeat does.")
@options.time_limit
@options.data
@options.results
@options.cache
@click.pass_obj
def verify_command(
    registry: PluginRegistry,
    path: Path,
    repeat: bool,
    time_limit: float | None,
    data_dir: Path | None,
    results_dir: Path,
    cache_dir: Path,
) -> None:
    """Checks a bundle that ddbench submit wrote.

    Checks the digest of each file, the records and their numbers, the versions of the protocols and methods, and that
    the images are those of the records. The exit code is 0 if the bundle is good, 2 if it is not, and 1 if a repeated
    record gives other numbers.
    """
    from ddbench.core.errors import DDBenchError
    from ddbench.core.text import counted
    from ddbench.pipeline import repetition
    from ddbench.results import bundle

    stored = bundle.check(path)
    methods = {method.name: method for method in registry.distillers()}
    protocols = {protocol.name: protocol for protocol in registry.evaluators()}
    for record in stored:
        if reason := bundle.other_versions(record, methods, protocols):
            raise DDBenchError(f"bundle {path}: record {record.name}: {reason}")
    for record in stored:
        label = f"{record.evaluator} v{record.evaluator_version}"
        options.print_result(f"{record.name}: top-1 {record.metrics.top1_last:.2f} ({label})")
    advice = "" if repeat else "; --repeat computes their numbers again"
    options.print_result(f"valid: {counted(len(stored), 'record')}{advice}")
    if repeat:
        files = repetition.Files((), (Path(), *([data_dir] if data_dir else [])))
        places = (data_dir, results_dir, cache_dir)
        agreements = [repeat_record(registry, record, files, time_limit, *places) for record in stored]
        options.print_result(f"\nrepeated: {agreements.count(True)} of {counted(len(stored), 'record')} agree")
        if False in agreements:
            sys.exit(1)
