"""Top-1 over the bytes of images and labels: one line per method and IPC, one marker per label budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from ddbench.core.canonical import canonical_json
from ddbench.core.errors import DDBenchError
from ddbench.core.text import counted
from ddbench.figures import curves, style
from ddbench.methods.random import Random
from ddbench.results.command import command_of
from ddbench.results.conditions import Facts, Pool, num_changes, pools
from ddbench.results.labels import disambiguate_labels, natural_order, recipe_label, set_labels
from ddbench.results.means import panel_title, pooled_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ddbench.results.records import Record

BUDGET = ("label_views", "label_top", "label_bits")
"""The settings of the label budgets."""
TEACHER_FACTS = ("teacher", "evaluator.temperature", "evaluator.squared_temperature")
"""The conditions that students with hard labels lack."""
REGIMES = ("fkd", "soft", "hard")
"""The protocols that differ in the labels only."""
MAX_LINES = len(style.COLOURS)
"""The most lines in a panel. Markers show the labels, so lines differ in colour only."""


@dataclass(frozen=True)
class Line:
    """The points of one variant of a method at one IPC.

    Attributes:
        panel: The conditions that all points of the panel share.
        points: The students with each label budget.
    """

    panel: Facts
    points: list[Pool]

    @property
    def example(self) -> Record:
        """The first record."""
        return self.points[0].example

    @property
    def is_random(self) -> bool:
        """Whether the images are random real images."""
        return self.example.method == Random.name


def total_bytes(record: Record) -> int:
    """Returns the bytes of the images and of the labels."""
    return record.metrics.image_bytes + record.metrics.label_bytes


def labels_of(record: Record) -> str:
    """Names the labels of a student: `hard`, `soft`, `10 views`, `all views, top 5, 4 bits`."""
    regime, settings = record.metrics.regime, record.configuration["evaluator_settings"]
    if regime != "fkd":
        return regime
    views = settings.get("label_views")
    words = ["all views" if views is None else counted(views, "view")]
    words += [f"top {settings['label_top']}"] if settings.get("label_top") else []
    words += [f"{settings['label_bits']} bits"] if settings.get("label_bits") else []
    return ", ".join(words)


def lines(records: Iterable[Record]) -> list[Line]:
    """Groups records to lines.

    The points of a panel share all conditions but IPC and labels. Students with hard labels have no teacher and no
    temperature; they are in every panel whose other conditions they share. Other protocols than `fkd`, `soft` and
    `hard` differ in more than the labels and have their own panels.
    """
    panels: dict[str, Facts] = {}
    members: list[tuple[Facts, Pool]] = []
    with_hard_labels: list[tuple[Facts, Pool]] = []
    for pool in pools(records):
        facts = _shared_facts(pool)
        if pool.example.metrics.regime == "hard":
            with_hard_labels.append((_without(TEACHER_FACTS, facts), pool))
        else:
            members.append((panels.setdefault(canonical_json(facts), facts), pool))
    for facts, pool in with_hard_labels:
        shared = [panel for panel in panels.values() if facts == _without(TEACHER_FACTS, panel)]
        members += [(panel, pool) for panel in shared or [panels.setdefault(canonical_json(facts), facts)]]
    by_line: dict[str, Line] = {}
    for panel, pool in members:
        key = canonical_json([panel, pool.config, pool.example.ipc])
        by_line.setdefault(key, Line(panel, [])).points.append(pool)
    return list(by_line.values())


def _shared_facts(pool: Pool) -> Facts:
    facts = _without(("ipc", *(f"evaluator.{name}" for name in BUDGET)), pool.conditions)
    if facts.get("evaluator.labels") in ("online", "stored"):
        del facts["evaluator.labels"]
    return {**facts, "evaluator": None} if pool.example.evaluator in REGIMES else facts


def _without(names: Sequence[str], facts: Facts) -> Facts:
    return {name: value for name, value in facts.items() if name not in names}


def main_lines(every: Sequence[Line]) -> list[Line]:
    """Selects lines: in each panel those of random images, then those with the most points, `MAX_LINES` at most.

    Each method has one line for an IPC, that of its best-measured variant; a single method beside random images has a
    line for each variant. A panel needs two values of bytes. Lines of one point are left out, except for those of
    random images. Accuracies do not count.
    """
    chosen = []
    for panel in {canonical_json(line.panel): line.panel for line in every}.values():
        inside = [line for line in every if line.panel == panel]
        if len({total_bytes(pool.example) for line in inside for pool in line.points}) > 1:
            kept = [line for line in inside if len(line.points) > 1 or line.is_random]
            kept.sort(
                key=lambda line: (not line.is_random, -len(line.points), -_num_records(line), num_changes(line.example))
            )
            if len({line.example.method for line in kept if not line.is_random}) > 1:
                best: dict[tuple[str, int | None], Line] = {}
                for line in kept:
                    best.setdefault((line.example.method, line.example.ipc), line)
                kept = list(best.values())
            chosen += kept[:MAX_LINES]
    return chosen


def _num_records(line: Line) -> int:
    return sum(len(pool.records) for pool in line.points)


def frame(chosen: Sequence[Line]) -> pd.DataFrame:
    """Returns the data of the figure: the mean top-1 of each label budget of each line.

    Returns:
        One row per panel, series and labels, random images first: `panel`, `dataset`, `series` (the variant of the
        method and the IPC), `method`, `recipe`, `ipc`, `labels`, `label_bytes` (of one image), `x` (all bytes), `top1`,
        `deviation`, `n`, `sets`, `mixture` and `published` (False).
    """
    panels: dict[str, list[Line]] = {}
    variants: dict[str, Pool] = {}
    for line in chosen:
        panels.setdefault(canonical_json(line.panel), []).append(line)
        variants.setdefault(canonical_json(line.points[0].config), line.points[0])
    titles = dict(zip(panels, _titles([*panels.values()]), strict=True))
    series = dict(zip(variants, _names([*variants.values()]), strict=True))
    rows: list[dict[str, Any]] = []
    for line in chosen:
        for pool in line.points:
            example = pool.example
            rows.append(
                {
                    "panel": titles[canonical_json(line.panel)],
                    "dataset": example.dataset,
                    "series": f"{series[canonical_json(pool.config)]}, IPC {example.ipc}",
                    "method": example.method,
                    "recipe": recipe_label(example, "evaluator.label_views"),
                    "ipc": example.ipc,
                    "labels": labels_of(example),
                    "label_bytes": example.metrics.label_bytes / example.distilled_images,
                    "x": total_bytes(example),
                    **pooled_columns(pool),
                    "published": False,
                }
            )
    rows.sort(
        key=lambda row: (
            natural_order(row["panel"]),
            row["method"] != Random.name,
            natural_order(row["series"]),
            row["x"],
        )
    )
    return pd.DataFrame(rows)


def _names(variants: Sequence[Pool]) -> list[str]:
    """Names variants; those of other recipes than most have the recipes in their names."""
    examples = [pool.example for pool in variants]
    recipes = ["+".join(example.recipes) for example in examples]
    usual = max(recipes, key=recipes.count)
    names = set_labels(examples, [pool.config for pool in variants])
    return [
        name if recipe in (usual, *name.split(", ")) else f"{name}, {recipe}"
        for name, recipe in zip(names, recipes, strict=True)
    ]


def _titles(panels: Sequence[Sequence[Line]]) -> list[str]:
    titles = [
        panel_title(inside[0].example, [pool.example for line in inside for pool in line.points]) for inside in panels
    ]
    return disambiguate_labels(titles, [inside[0].panel for inside in panels], [inside[0].example for inside in panels])


def draw(records: Sequence[Record], warn: Callable[[str], None]) -> Figure:
    """Draws the figure.

    Args:
        records: The records; at least one.
        warn: Called with a message for what is left out, and for points whose records differ.

    Raises:
        DDBenchError: If no panel has two values of bytes.
    """
    every = lines(records)
    chosen = main_lines(every)
    if not any(len(line.points) > 1 for line in chosen):
        command = command_of(records[0], settings=("evaluator.label_views=10",))
        raise DDBenchError(f"figure 'budget' needs a second label budget of the protocol fkd; e.g. {command}")
    if left_out := len(every) - len(chosen):
        warn(f"left out: {counted(left_out, 'line')}; choose with --methods and --recipe")
    data = frame(chosen)
    curves.name_mixtures(data, "bytes", warn)
    labels = list(data.sort_values("label_bytes", kind="stable")["labels"].unique())
    return curves.draw_panels(data, lambda axes, panel: _draw_panel(axes, panel, labels), caption(data), 1.2)


def _draw_panel(axes: Axes, data: pd.DataFrame, labels: list[str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    unit, name = (1e6, "MB") if data["x"].max() >= 1e6 else (1e3, "kB")
    ends = []
    for number, (series, line) in enumerate(data.groupby("series", sort=False)):
        colour, x, top1 = style.COLOURS[number], line["x"] / unit, line["top1"]
        drawn = axes.errorbar(x, top1, line["deviation"].fillna(0), color=colour, capsize=2.5)
        drawn.lines[0].set_gid(f"mean-{number}")
        for point, height, text in zip(x, top1, line["labels"], strict=True):
            axes.plot(point, height, color=colour, marker=_marker(text, labels), linestyle="none")
        ends.append((float(x.iloc[-1]), float(top1.iloc[-1]), str(series), colour))
    low, high = float(data["x"].min()) / unit, float(data["x"].max()) / unit
    axes.set_xscale("log")
    axes.set_xlim(low / 1.2, max(high * 1.2, low * 5))  # wide enough for a tick
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"images and labels ({name})")
    axes.grid(axis="y")
    shown = [text for text in labels if text in set(data["labels"])]
    handles = [Line2D([], [], color=curves.GREY, marker=_marker(text, labels), linestyle="none") for text in shown]
    opaque: dict[str, Any] = {"frameon": True, "framealpha": 1, "edgecolor": "white"}
    legend = axes.legend(handles, shown, loc="lower right", title="labels", **opaque)
    legend.set_zorder(4)  # above the lines that lead to the names
    curves.name_lines(axes, ends)


def _marker(text: str, labels: list[str]) -> str:
    return style.MARKERS[labels.index(text) % len(style.MARKERS)]


def caption(data: pd.DataFrame) -> str:
    """Returns the caption: the measurements, and what the bytes are."""
    return (
        f"{curves.measurement_note(data)}\nBytes: images as stored (uint8 or float32), and the labels that the student "
        "uses, with their views. n views: the views and labels of n epochs, which all epochs reuse in turn."
    )
