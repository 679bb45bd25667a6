"""Which records measure the same, what each way of making a set is called, and the means of top-1."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from ddbench.results.records import Record
from ddbench.results.scores import STUDENT_NUMERICS
from ddbench.storage.cache import canonical_json

if TYPE_CHECKING:
    import pandas as pd

Facts = dict[str, Any]
SHARED = ("dataset", "classes", "evaluator", "student")
MEAN_COLUMNS = ("panel", *SHARED, "series", "method", "recipe", "x", "top1", "deviation", "n", "sets")


def distillation_config(record: Record) -> Facts:
    """What a distilled set was made with, apart from how the real images were seen, IPC and seeds, by dotted name."""
    configuration = record.configuration
    facts = {"method": record.method, "method version": record.method_version}
    facts |= _under("method", configuration["method_settings"])
    facts["distill.jpeg_quality"] = configuration["distill"]["jpeg_quality"]
    if "statistics" in record.keys:
        facts |= _under("statistics", configuration["statistics"])
        facts["teacher"] = record.keys["teacher"][0]
    return facts


def evaluation_conditions(record: Record) -> Facts:
    """What students must share to be compared, their method aside, by dotted name."""
    configuration = record.configuration
    runtime = configuration["runtime"]
    numerics = [part for part in record.versions["numerics"].split() if part.partition("=")[0] in STUDENT_NUMERICS]
    return {
        "dataset": record.dataset,
        "classes": record.classes,
        **data_settings(record),
        "ipc": record.ipc,
        "evaluator": f"{record.evaluator} v{record.evaluator_version}",
        **_under("evaluator", configuration["evaluator_settings"]),
        "student": record.student,
        "student_stem": configuration["student_stem"],
        # Hard labels come from no teacher, whichever the images came from.
        "teacher": None if record.metrics.regime == "hard" else record.teacher.get("key"),
        "device": f"{runtime['device'].partition(':')[0]} {runtime['precision']}",
        "numerics": " ".join(numerics),
    }


def data_settings(record: Record) -> Facts:
    """How the real images were seen, by dotted name."""
    return _under("data", {"holdout": 0.0, **record.configuration["data"]})


def _under(section: str, settings: Mapping[str, Any]) -> Facts:
    return {f"{section}.{name}": value for name, value in settings.items()}


def set_labels(found: Sequence[Record], facts: Sequence[Facts]) -> list[str]:
    """What each record's way of making a set is called: `wmdd`, and as much more as tells them apart."""
    recipes = defaultdict(set)
    for record in found:
        recipes[record.method].add("+".join(record.recipes))
    heads = [
        f"{record.method}, {'+'.join(record.recipes)}" if len(recipes[record.method]) > 1 else record.method
        for record in found
    ]
    return disambiguate_labels(heads, facts, found)


def disambiguate_labels(heads: Sequence[str], facts: Sequence[Facts], found: Sequence[Record]) -> list[str]:
    """The heads; where several are equal, each with the facts in which they differ, or with a record's key.

    The key stands where the facts are more than two, or tell it apart from no other. Facts that some of them do not
    have (those of a method that has since got more settings) are passed over.
    """
    labels = list(heads)
    for head in {head for head in heads if heads.count(head) > 1}:
        mine = [number for number, other in enumerate(heads) if other == head]
        shared = set.intersection(*(set(facts[number]) for number in mine))
        differing = sorted(name for name in shared if len({canonical_json(facts[number][name]) for number in mine}) > 1)
        texts = {n: ", ".join(_said(name, facts[n][name], found[n]) for name in differing) for n in mine}
        for number, text in texts.items():
            told = 0 < len(differing) <= 2 and list(texts.values()).count(text) == 1
            labels[number] += f", {text}" if told else f" [{found[number].name.rpartition('-')[2]}]"
    return labels


def recipe(record: Record, over: str = "") -> str:
    """The recipes of a record, with `--set` where more was changed than `over` and what the labels say anyway."""
    changed = [name for name in record.configuration.get("changed", ()) if not name.startswith("runtime.")]
    return "+".join(record.recipes) + (" --set" if set(changed) - {over, "teacher.checkpoint"} else "")


def natural_order(label: str) -> list[tuple[int, float, str]]:
    """A key to sort labels by in which numbers count as numbers: 50 before 300."""
    parts = re.split(r"(\d+(?:\.\d+)?)", label)
    return [(1, float(part), "") if part[:1].isdigit() else (0, 0.0, part) for part in parts]


def key_note(labels: Iterable[str]) -> str:
    """What a caption says of keys in brackets, where there are any."""
    return " In brackets: a record's key." if any(label.endswith("]") for label in labels) else ""


def _said(name: str, value: object, record: Record) -> str:
    if name == "teacher":
        return f"teacher {record.teacher['top1']:.1f} %" if record.teacher else "no teacher"
    shown = "none" if value is None else format(value, "g") if isinstance(value, float) else value
    return f"{name.rpartition('.')[2]} {shown}"


def mean_top1(found: Sequence[Record], over: str) -> pd.DataFrame:
    """Top-1 over the fact `over` ("ipc", "method.bn_weight"): one row for students that differ in seeds alone.

    Columns: `panel`, which names what its students share (never two protocols, teachers or sizes), and of that
    `dataset`, `classes`, `evaluator`, `student`; `series`, the way of making a set, its `method` and `recipe`; `x`;
    `top1` in percent and its sample `deviation` (NaN for one student) over `n` students on `sets` distilled sets. The
    same student on the same set counts once. Records without the fact are left out.
    """
    import pandas as pd

    students: dict[tuple[str, str, float], dict[tuple[str, int], Record]] = {}
    panels: dict[str, tuple[Record, Facts]] = {}
    series: dict[str, tuple[Record, Facts]] = {}
    for record in found:
        around, made = evaluation_conditions(record), distillation_config(record)
        x = around.pop(over, made.pop(over, None))
        if x is not None:
            panel, maker = canonical_json(around), canonical_json(made)
            panels.setdefault(panel, (record, around))
            series.setdefault(maker, (record, made))
            student = (record.distilled_digest, record.seed + record.student_seed)
            students.setdefault((panel, maker, float(x)), {})[student] = record
    titles = dict(zip(panels, _titles([*panels.values()], over), strict=True))
    makers = [record for record, _ in series.values()]
    names = dict(zip(series, set_labels(makers, [made for _, made in series.values()]), strict=True))
    rows: list[dict[str, Any]] = []
    for (panel, maker, x), mine in students.items():
        shared, maker_of = panels[panel][0], series[maker][0]
        top1 = [record.metrics.top1_last for record in mine.values()]
        rows.append(
            {
                "panel": titles[panel],
                **{name: getattr(shared, name) for name in SHARED},
                "series": names[maker],
                "method": maker_of.method,
                "recipe": recipe(maker_of, over),
                "x": x,
                "top1": fmean(top1),
                "deviation": stdev(top1) if len(top1) > 1 else float("nan"),
                "n": len(top1),
                "sets": len({digest for digest, _ in mine}),
            }
        )
    rows.sort(key=lambda row: (natural_order(row["panel"]), natural_order(row["series"]), row["x"]))
    return pd.DataFrame(rows, columns=list(MEAN_COLUMNS))


def _titles(panels: Sequence[tuple[Record, Facts]], over: str) -> list[str]:
    found = [record for record, _ in panels]
    heads = []
    for record in found:
        size = "" if over == "ipc" else f", IPC {record.ipc}"
        measured = f", on {record.measured_on}" if record.holdout else ""
        title = f"{record.dataset}, {record.image_size} px{size}{measured}"
        heads.append(f"{title}\n{record.evaluator} v{record.evaluator_version}, {record.student}")
    return disambiguate_labels(heads, [facts for _, facts in panels], found)
