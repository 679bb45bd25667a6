"""Records and cache contents as text: for a person, or as CSV or JSON for a program."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from tabulate import tabulate

if TYPE_CHECKING:
    import pandas as pd

    from ddbench.results.records import Record

ESSENTIAL = ("name", "method", "dataset", "image_size", "ipc", "evaluator", "student", "repeat", "student_seed")
DIGITS = {"holdout": "g", "lrs": ".4f"}


def record_text(record: Record) -> str:
    """One record, readable: what was measured, under which protocol, what it cost, and its whole configuration."""
    table = tabulate(record_rows(record), tablefmt="plain", disable_numparse=True)
    return f"{table}\n\n{yaml.safe_dump(record.configuration, sort_keys=False).rstrip()}"


def record_rows(record: Record) -> list[tuple[str, str]]:
    """A record without its configuration: what each line says, and what it is about."""
    metrics = record.metrics
    teacher = record.teacher
    rows = [
        ("record", record.name),
        ("created", record.created),
        ("method", f"{record.method} v{record.method_version}"),
        ("dataset", f"{record.dataset}, {record.classes} classes, {record.image_size} px"),
        ("IPC", "all" if record.ipc is None else record.ipc),
        ("recipes", " + ".join(record.recipes)),
        ("protocol", f"{record.evaluator} v{record.evaluator_version} ({metrics.regime} labels)"),
        ("student", f"{record.student}, seed {record.seed} + {record.student_seed}, set {record.repeat}"),
        ("top-1 (last epoch)", f"{metrics.top1_last:.2f} % on {record.measured_on}"),
        ("top-1 by class", " ".join(f"{value:.0f}" for value in metrics.per_class)),
    ]
    if metrics.top1_best is not None:
        rows.append(("best epoch", f"{metrics.top1_best:.2f} % (chosen on {record.measured_on}: not a result)"))
    if metrics.top1_selected is not None:
        chosen = f"after epoch {metrics.selected_epoch}, chosen on held-out distilled images"
        rows.append(("top-1 (selected)", f"{metrics.top1_selected:.2f} % on {record.measured_on} ({chosen})"))
    if teacher:
        rows.append(("teacher", f"{teacher['name']}, {teacher['top1']:.2f} % on {record.measured_on}"))
    if record.feature_transport_cost is not None:
        rows.append(("W2² of features", f"{record.feature_transport_cost:.2f}"))
    if record.seconds_per_iteration is not None:
        rows.append(("recover", f"{record.seconds_per_iteration:.4f} s a step"))
    rows += [
        ("student steps", metrics.student_steps),
        ("bytes", f"images {metrics.image_bytes:,}, labels {metrics.label_bytes:,}"),
        ("seconds", ", ".join(f"{stage} {value:.1f}" for stage, value in record.seconds.items())),
        (
            "peak memory",
            ", ".join(f"{kind} {value / 2**20:.0f} MB" for kind, value in record.peak_memory.items()),
        ),
        ("device", _device(record.device)),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
        ("distilled set", record.distilled_digest),
    ]
    return [(name, str(value)) for name, value in rows]


def _device(device: Mapping[str, Any]) -> str:
    loose = ", ".join(device.get("nondeterministic", []))
    several = f", {device['processes']} processes" if "processes" in device else ""
    return f"{device['name']} ({device['type']}, {device['threads']} threads{several})" + (
        f"; other bits the next time, by {loose}" if loose else ""
    )


def overview(folder: Path, form: str, scored: bool, warn: Callable[[str], None]) -> str:
    """All records of `folder`, or with `scored` their scores (see `ddbench.results.scores`).

    `form` text: the essential columns, rounded; csv: every column, nested ones by dotted names; json: every column
    as it is. `warn` is told of files that are no records. Raises DDBenchError where there is no record.
    """
    from ddbench.results import records
    from ddbench.results.scores import scores

    frame = records.load(folder, warn)
    if frame.empty:
        raise records.nothing_in(folder)
    if scored:
        frame = scores(frame)
    elif form == "text":
        frame = frame[[*ESSENTIAL, "regime", "holdout", "top1_last"]]
    return frame_text(frame, form)


def frame_text(frame: pd.DataFrame, form: str) -> str:
    """A frame as text, csv or json (`form`). A missing value is empty, in json null."""
    whole = frame.astype(object).where(frame.notna(), None)
    rows = [{str(name): value for name, value in row.items()} for row in whole.to_dict("records")]
    if form == "json":
        return json.dumps(rows, indent=1, allow_nan=False)
    if form == "csv":
        import pandas as pd

        flat = pd.DataFrame([_flat(row) for row in rows], columns=None if rows else frame.columns, dtype=object)
        return flat.to_csv(index=False).rstrip("\n")
    shown = [[_shown(name, value) for name, value in row.items()] for row in rows]
    return tabulate(shown, headers=list(frame.columns), tablefmt="simple", disable_numparse=True)


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted names; a list as JSON."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.dumps(value) if isinstance(value, list) else value
    return flat


def _shown(name: str, value: object) -> str:
    if isinstance(value, float):
        return format(value, DIGITS.get(name, ".2f"))
    return "" if value is None else str(value)


def cache_text(entries: list[dict[str, Any]]) -> str:
    """What `ddbench cache ls` prints: one line an artifact, and the sum; `where` it is, if not all are in a folder."""
    now, apart = time.time(), any("where" in entry for entry in entries)
    rows = [
        (
            entry["stage"],
            entry["key"],
            f"{entry['bytes'] / 2**20:.2f}",
            f"{(now - entry['modified']) / 86400:.1f}",
            *([entry["where"]] if apart else []),
        )
        for entry in entries
    ]
    total = sum(entry["bytes"] for entry in entries) / 2**20
    headers = ["stage", "key", "MB", "days old", *(["where"] if apart else [])]
    table = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
    return f"{table}\n\n{len(entries)} files, {total:.1f} MB"
