"""`ddbench show`, `ddbench records` and `ddbench export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddbench.cli import options

if TYPE_CHECKING:
    from ddbench.registry.registry import PluginRegistry


@options.command("show")
@click.argument("run", required=False)
@options.results
def show_command(run: str | None, results_dir: Path) -> None:
    """Shows a record with its configuration.

    RUN is the name of a record or a unique prefix of it (default: the newest record).
    """
    from ddbench.results import records
    from ddbench.results import text as results_text

    click.echo(results_text.record_text(records.read(records.find(results_dir / "records", run))))


@options.command("records")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "csv", "json"]),
    default="text",
    show_default=True,
    help="Output format; csv and json have all columns.",
)
@click.option(
    "--scores",
    "with_scores",
    is_flag=True,
    help="Print scores: improvement over random, hard-label recovery, label- and augmentation-robust score.",
)
@options.methods
@options.datasets("Only records of these datasets.")
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    help="Only records of this recipe. Repeat it for records of several recipes, in their order.",
)
@click.option("--schema", is_flag=True, help="Print the JSON schema of the files of records.")
@click.option("--sort", metavar="COLUMN", help="Sort by this column, numbers from the largest.")
@options.wide
@options.results
def records_command(
    form: str, with_scores: bool, schema: bool, wide: bool, results_dir: Path, **selection: Any
) -> None:
    """Lists the records in one table."""
    from ddbench.results import text as results_text

    if schema:
        from ddbench.results.schema import schema_text

        click.echo(schema_text(), nl=False)
        return

    folder, selected = results_dir / "records", results_text.Selection(**selection)
    click.echo(results_text.records_text(folder, form, with_scores, options.print_error, selected, wide))


@options.command("export")
@click.argument("run")
@click.option(
    "--format",
    "form",
    type=click.Choice(["imagefolder", "safetensors", "huggingface"]),
    default="imagefolder",
    show_default=True,
    help="PNG files in one folder per class, one file of tensors, or parquet files with a card.",
)
@click.option(
    "--labels",
    "with_labels",
    is_flag=True,
    help="Also export the stored labels of fkd: labels.safetensors, described in labels.json.",
)
@click.option("--output", type=options.LocalPath(path_type=Path), required=True, help="Folder to create.")
@click.option(
    "--push",
    "repository",
    metavar="OWNER/NAME",
    help="Also upload the folder to the Hugging Face hub; with --format huggingface.",
)
@options.data
@options.results
@options.cache
@click.pass_obj
def export_command(
    registry: PluginRegistry,
    run: str,
    form: str,
    with_labels: bool,
    output: Path,
    repository: str | None,
    data_dir: Path | None,
    results_dir: Path,
    cache_dir: Path,
) -> None:
    """Exports a distilled set as images or tensors.

    RUN is the name of a record of this set, or a prefix that only records of this set have. The weights of the images
    and a description of the set are exported too.
    """
    from ddbench.pipeline.workspace import Workspace
    from ddbench.results import records
    from ddbench.results.export import export_run
    from ddbench.results.hub_export import push_folder, require_push

    if repository is not None and form != "huggingface":
        raise click.UsageError(f"--push uploads the files of --format huggingface, and --format is {form}")
    if repository is not None:
        require_push()
    record = records.read(records.find(results_dir / "records", run, of_set=not with_labels))
    workspace = Workspace(registry, options.open_cache(cache_dir), data_dir)
    written = export_run(record, workspace.cache, workspace.dataset, output, form, with_labels)
    click.echo(f"written: {written}")
    if repository is not None:
        click.echo(f"uploaded: {push_folder(written, repository)}")
