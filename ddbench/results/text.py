"""Formats records, frames and cache contents as text, CSV or JSON."""

from __future__ import annotations

import json
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from tabulate import tabulate

from ddbench.config.datasets import refers_to
from ddbench.core.errors import DDBenchError, unknown
from ddbench.core.text import counted
from ddbench.core.text_layout import UNLIMITED, format_facts, format_rows, format_table, join_sections, terminal_width
from ddbench.results.command import inputs_of
from ddbench.results.labels import recipe_label
from ddbench.results.measures import PREFIX, measured_text

if TYPE_CHECKING:
    import pandas as pd

    from ddbench.results.records import Record, Trial

RECORD_COLUMNS = ("name", "image_size", "recipe", "evaluator", "holdout", "top1_last")
"""Columns of the text overview of records."""
WIDE_RECORD_COLUMNS = (
    *("name", "method", "dataset", "image_size", "ipc", "recipe", "evaluator", "student", "repeat", "student_seed"),
    *("regime", "holdout", "top1_last"),
)
"""Columns of the overview with `--wide`."""
SCORE_CONDITIONS = ("recipe", "settings", "dataset", "image_size", "holdout", "student")
"""Columns of the scores that the text overview joins to one label of each row."""
SCORE_COLUMNS = ("ipc", "protocol", "top1", "ior", "hlr", "lrs", "ars")
"""Further columns of the text overview of scores."""
UNAUGMENTED = ("unaugmented", "unaugmented_n", "unaugmented_random", "unaugmented_random_n", "ars_raw", "ars")
"""Columns of the scores that need students without augmentation."""
OPTIONAL = ("settings", "holdout", *UNAUGMENTED, "missing", "mixture")
"""Columns of the scores that are left out of a text if they are empty."""
SHOWN_CLASSES = 20
"""Largest number of classes whose accuracies are shown by name."""
FORMATS = {"holdout": "g", "lrs": ".4f", "ars": ".4f"}
"""Formats of float columns in text. Others have two decimals."""


def record_text(record: Record) -> str:
    """Formats one record in the width of the terminal: its results, conditions, cost and configuration."""
    return f"{format_facts(record_rows(record), terminal_width())}\n\n{tree_text(record.configuration).rstrip()}"


def tree_text(tree: Mapping[str, Any]) -> str:
    """Formats nested values as YAML, in their order.

    Example:
        >>> print(tree_text({"data": {"image_size": 64}}), end="")
        data:
          image_size: 64
    """
    # PyYAML built without libyaml lacks the C dumper, which is about ten times as fast.
    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(tree, Dumper=dumper, sort_keys=False)
    return text


def record_rows(record: Record) -> list[tuple[str, str]]:
    """Returns a record without its configuration as pairs of a name and a text."""
    metrics = record.metrics
    teacher, class_names = record.teacher, record.data.get("class_names", [])
    rows = [
        ("record", record.name),
        ("created", record.created),
        ("method", f"{record.method} v{record.method_version}"),
        ("dataset", f"{record.dataset}, {record.classes} classes, {record.image_size} px"),
        ("IPC", "all" if record.ipc is None else record.ipc),
        ("recipe", recipe_label(record)),
        ("protocol", f"{record.evaluator} v{record.evaluator_version} ({metrics.regime} labels)"),
        ("student", f"{record.student}, seed {record.seed}, student {record.student_seed}, set {record.repeat}"),
        ("top-1 (last epoch)", f"{metrics.top1_last:.2f} % on {record.measured_on}"),
        ("top-1 by class", _by_class(class_names, metrics.per_class)),
    ]
    if metrics.curve is not None:
        points = ", ".join(f"{top1:.2f} at {step}" for step, top1 in metrics.curve)
        rows.append(("top-1 by step", f"{points} (one run, one schedule; the last is the result)"))
    if metrics.top1_best is not None:
        rows.append(("best epoch", f"{metrics.top1_best:.2f} % (chosen on {record.measured_on}: not a result)"))
    if metrics.top1_selected is not None:
        chosen = f"after epoch {metrics.selected_epoch}, chosen on held-out distilled images"
        rows.append(("top-1 (selected)", f"{metrics.top1_selected:.2f} % on {record.measured_on} ({chosen})"))
    if teacher:
        given = record.configuration["teacher"].get("checkpoint") and teacher.get("digest")
        weights = f", weights {given[:12]}" if given else ""
        rows.append(("teacher", f"{teacher['name']}, {teacher['top1']:.2f} % on {record.measured_on}{weights}"))
    if "per_class" in teacher:
        rows.append(("teacher by class", _by_class(class_names, teacher["per_class"])))
    if record.feature_transport_cost is not None:
        rows.append(("W2² of features", f"{record.feature_transport_cost:.2f}"))
    rows += [(f"measure {name}", measured_text(measured)) for name, measured in record.measures.items()]
    if record.seconds_per_iteration is not None:
        rows.append(("recover", f"{record.seconds_per_iteration:.4f} s per step"))
    rows += [
        ("student steps", metrics.student_steps),
        ("bytes", f"images {metrics.image_bytes:,}, labels {metrics.label_bytes:,}"),
        ("seconds", ", ".join(f"{stage} {value:.1f}" for stage, value in record.seconds.items())),
        *([("built", ", ".join(f"{stage} {time}" for stage, time in record.built.items()))] if record.built else []),
        (
            "peak memory",
            ", ".join(f"{kind} {value / 2**20:.0f} MB" for kind, value in record.peak_memory.items()),
        ),
        ("device", _device(record.device)),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
        ("distilled set", record.distilled_digest),
        *([("set holds", _form(record.distilled_form))] if record.distilled_form else []),
        *(
            [("given set", ", ".join(f"{name} {value}" for name, value in record.origin.items()))]
            if record.origin
            else []
        ),
        *([("tuning", "; ".join(map(_trial, record.trials)))] if record.trials else []),
        ("repeated by", f"ddbench repeat {record.name}"),
        *([("inputs", needs)] if (needs := inputs_of(record)) else []),
    ]
    return [(name, str(value)) for name, value in rows]


def _trial(trial: Trial) -> str:
    return f"trial {trial.trial} of {trial.of} of the search {trial.search}"


def _form(form: Mapping[str, Any]) -> str:
    """Returns the text of `Record.distilled_form`, e.g. `float32 pixels, soft labels (logits), learning rate 0.02`."""
    texts = {
        "pixels": "{} pixels",
        "soft_labels": "soft labels ({})",
        "learning_rate": "learning rate {:.6g}",
        "decode_factor": "{0} x {0} images in each image",
    }
    return ", ".join(text.format(form[name]) for name, text in texts.items() if name in form)


def _by_class(names: list[str], values: list[float]) -> str:
    """Lists the accuracy of each class with its name; of many classes the lowest. Older records have no names."""
    if len(names) != len(values):
        return " ".join(f"{value:.0f}" for value in values)
    ordered = list(zip(names, values, strict=True))
    if len(ordered) > SHOWN_CLASSES:
        ordered = sorted(ordered, key=lambda pair: pair[1])[:SHOWN_CLASSES]
    text = ", ".join(f"{name} {value:.0f}" for name, value in ordered)
    return text if len(ordered) == len(names) else f"{text} (the lowest of {len(names)} classes)"


def _device(device: Mapping[str, Any]) -> str:
    operations = ", ".join(device.get("nondeterministic", []))
    processes = f", {device['processes']} processes" if "processes" in device else ""
    return f"{device['name']} ({device['type']}, {device['threads']} threads{processes})" + (
        f"; nondeterministic: {operations}" if operations else ""
    )


@dataclass(frozen=True)
class Selection:
    """Which rows of a list of records are shown, and their order.

    Attributes:
        methods: Names of methods: any of them. Empty: all.
        datasets: Names of datasets: any of them. Empty: all.
        recipes: All recipes of a record, in order. Empty: any.
        sort: Column that the rows are sorted by, numbers from the largest. None: the order of the names.
    """

    methods: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    sort: str | None = None

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Returns the selected rows of a frame that has the columns `method`, `dataset` and `recipe`.

        Raises:
            DDBenchError: If no row is selected, or if there is no such column to sort by.
        """
        recipes = frame["recipe"].map(lambda label: label.partition(" ")[0])
        datasets: set[str] = set()
        for reference in self.datasets:
            datasets |= {name for name in frame["dataset"] if refers_to(reference, name)} or {reference}
        for values, selected in (
            (frame["method"], self.methods),
            (frame["dataset"], datasets),
            (recipes, ("+".join(self.recipes),) if self.recipes else ()),
        ):
            if selected and (missing := set(selected) - set(values)):
                raise unknown(f"{values.name or 'recipe'} of a record", min(missing), sorted(set(values)))
            frame = frame[values[frame.index].isin(selected)] if selected else frame
        if frame.empty and (self.methods or self.datasets or self.recipes):
            raise DDBenchError("no record has this method, dataset and recipe")
        if self.sort is None:
            return frame
        if self.sort not in frame:
            raise unknown("column", self.sort, list(map(str, frame)))
        values = frame[self.sort].map(lambda value: json.dumps(value) if isinstance(value, (dict, list)) else value)
        numeric = values.dropna().map(lambda value: isinstance(value, (int, float))).all()
        return frame.loc[values.sort_values(ascending=not numeric, kind="stable", na_position="last").index]


def records_frame(stored: Sequence[Record], scored: bool = False, selection: Selection = Selection()) -> pd.DataFrame:
    """Returns records, or their scores, as a frame.

    Args:
        stored: The records.
        scored: Whether to return `ddbench.results.scores` instead.
        selection: The rows and their order.

    Returns:
        The fields of the records without `keys` and `stages`, the metrics, and `recipe`.

    Raises:
        DDBenchError: If there is no such record.
    """
    from ddbench.results.frames import to_frame
    from ddbench.results.labels import recipe_label
    from ddbench.results.scores import scores

    frame = to_frame(stored)
    if scored:
        return selection.of(scores(frame))
    return selection.of(frame.assign(recipe=list(map(recipe_label, stored)))).drop(columns=["keys", "stages"])


def records_text(
    folder: Path,
    form: str,
    scored: bool,
    warn: Callable[[str], None],
    selection: Selection = Selection(),
    wide: bool = False,
) -> str:
    """Formats all records of a folder, or their scores.

    Args:
        folder: Folder of records.
        form: "text": the essential columns, rounded. "csv": all columns, nested values by dotted names. "json": all
            columns.
        scored: Whether to show `ddbench.results.scores` instead.
        warn: Called with a message for each JSON file that is not a record.
        selection: The rows and their order.
        wide: Whether a text has one line per row and more columns, instead of the width of the terminal.

    Raises:
        DDBenchError: If there is no such record.
    """
    from ddbench.results import records

    stored = records.read_all(folder, warn)
    if not stored:
        raise records.no_records_error(folder)
    frame = records_frame(stored, scored, selection)
    short = form == "text" and not wide
    if scored:
        if form == "text":  # columns that say nothing would make the table wider
            frame = frame.drop(
                columns=["records", *(name for name in OPTIONAL if len(frame) and not frame[name].any())]
            )
        if short and len(frame):
            _warn_of_hidden_notes(frame, warn)
            return _scores_text(_text_rows(frame))
    else:
        if short:
            return format_rows(_text_rows(frame[list(RECORD_COLUMNS)]), ("name", "top1_last"))
        if form == "text":
            frame = frame[[*WIDE_RECORD_COLUMNS, *(name for name in frame if str(name).startswith(PREFIX))]]
    return frame_text(frame, form)


def _scores_text(rows: list[dict[str, str]]) -> str:
    """Formats scores in the width of the terminal. The label of a row has the conditions in which the rows differ."""
    width, conditions = terminal_width(), [name for name in SCORE_CONDITIONS if name in rows[0]]
    shared = [name for name in conditions if len({row[name] for row in rows}) == 1]
    columns = [name for name in SCORE_COLUMNS if name in rows[0]]
    labels = []
    for row in rows:
        recipe = row["recipe"].partition(" + ")[0] if row.get("settings") else row["recipe"]
        values = {**row, "recipe": recipe}
        labels.append([row["method"], *(values[name] for name in conditions if name not in shared)])
    positions = Counter((*label, row["ipc"], row["protocol"]) for label, row in zip(labels, rows, strict=True))
    lines = []
    for label, row in zip(labels, rows, strict=True):
        teacher = f"teacher {row['teacher']}" if positions[*label, row["ipc"], row["protocol"]] > 1 else ""
        lines.append([", ".join(filter(None, (*label, teacher))), *(row[name] for name in columns)])
    facts = textwrap.fill(", ".join(f"{name} {rows[0][name]}" for name in shared), width)
    return join_sections(facts, format_table(("row", *columns), lines, width))


def _warn_of_hidden_notes(frame: pd.DataFrame, warn: Callable[[str], None]) -> None:
    """Names the notes of the scores that only the wide overview shows."""
    missing, mixed = (int((frame[name] != "").sum()) if name in frame else 0 for name in ("missing", "mixture"))
    texts = [f"{counted(missing, 'row')} without a score"] * bool(missing)
    texts += [f"{counted(mixed, 'row')} with records of different conditions"] * bool(mixed)
    if texts:
        warn(f"{', '.join(texts)}: --wide names them")


def _text_rows(frame: pd.DataFrame) -> list[dict[str, str]]:
    from ddbench.results.frames import rows_of

    return [{name: _cell_text(name, value) for name, value in row.items()} for row in rows_of(frame)]


def frame_text(frame: pd.DataFrame, form: str) -> str:
    """Formats a frame.

    Args:
        frame: The frame.
        form: "text", "csv" or "json". A missing value is empty, in JSON null.

    Example:
        >>> import pandas as pd
        >>> print(frame_text(pd.DataFrame({"ipc": [1], "top1": [62.5]}), "csv"))
        ipc,top1
        1,62.5
    """
    from ddbench.results.frames import rows_of

    rows = rows_of(frame)
    if form == "json":
        return json.dumps(rows, indent=1, allow_nan=False)
    if form == "csv":
        import pandas as pd

        flat = pd.DataFrame([_flat(row) for row in rows], columns=None if rows else frame.columns, dtype=object)
        return flat.to_csv(index=False).rstrip("\n")
    cells = [[_cell_text(name, value) for name, value in row.items()] for row in rows]
    return format_table([str(name) for name in frame], cells, UNLIMITED)


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Names nested values by dotted names and writes lists as JSON."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.dumps(value) if isinstance(value, list) else value
    return flat


def _cell_text(name: str, value: object) -> str:
    if isinstance(value, float):
        return format(value, FORMATS.get(name, ".2f"))
    return "" if value is None else str(value)


def cache_text(entries: list[dict[str, Any]]) -> str:
    """Formats the list of artifacts that `ddbench cache ls` prints: one line each, and the sum.

    Args:
        entries: Artifacts with `stage`, `key`, `bytes`, `modified` (seconds since the epoch) and, in a remote cache,
            `where`.
    """
    now, has_places = time.time(), any("where" in entry for entry in entries)
    rows = [
        (
            entry["stage"],
            entry["key"],
            f"{entry['bytes'] / 2**20:.2f}",
            f"{(now - entry['modified']) / 86400:.1f}",
            *([entry["where"]] if has_places else []),
        )
        for entry in entries
    ]
    total = sum(entry["bytes"] for entry in entries) / 2**20
    headers = ["stage", "key", "MB", "days old", *(["where"] if has_places else [])]
    table = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
    return f"{table}\n\n{len(entries)} files, {total:.1f} MB"
