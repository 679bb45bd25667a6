"""The page on trackers: its own tracker writes a line for each value, and its table names the extras."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from ddbench.api import Context, Event
from ddbench.trackers import ddbench_trackers

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "trackers.md").read_text(encoding="utf-8")


def test_the_tracker_of_the_page_writes_a_line_for_each_value(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    module: dict[str, Any] = {}
    exec(block, module)
    (cls,) = module["ddbench_trackers"]()
    tracker = cls(tmp_path / "lines")
    context = Context("a cell", "random-digits-ipc1-01234567", {})
    tracker.ddbench_event(Event("step", "distill", step=3, metrics={"loss": 0.5}, context=context))
    tracker.close()
    assert (tmp_path / "lines" / "random-digits-ipc1-01234567.txt").read_text() == "3 distill/loss 0.5\n"


def test_every_tracker_is_on_the_page_with_its_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    names = {cls.name for cls in ddbench_trackers()}
    assert set(re.findall(r"^\| `(\w+)` \| `pip install 'ddbench\[\1\]'`", PAGE, re.MULTILINE)) == names
    assert names <= extras.keys()
