"""The table of label budgets: its cells and its bytes."""

import pandas as pd

from ddbench.api.table import TableQuery
from ddbench.tables.budget import LABELS, cells, with_bytes


def test_random_images_are_also_twice_as_many() -> None:
    query = TableQuery(("digits",), ("random", "kmeans", "full"), (1, 10))
    actual = [(cell.method, cell.ipc) for cell in cells(query)]
    assert actual == [
        (method, ipc)
        for method, ipcs in (("random", (1, 10, 2, 20)), ("kmeans", (1, 10)))
        for ipc in ipcs
        for _ in LABELS
    ]
    views = [cell.settings.get("evaluator.label_views", cell.evaluator) for cell in cells(query)]
    assert views[: len(LABELS)] == ["hard", "soft", 1, 10, 50, None]


def test_the_bytes_are_those_of_the_records() -> None:
    frame = pd.DataFrame(
        {
            "dataset": ["digits", "digits", "digits", "cifar10"],
            "state": ["measured", "never run", "failed", "never run"],
            "record": ["one", None, None, None],
        }
    )
    records = pd.DataFrame({"name": ["one", "two"], "image_bytes": [300, 1], "label_bytes": [40, 1]})
    actual = with_bytes(frame, records)
    assert actual["state"].tolist() == ["measured", "failed", "never run"]
    assert actual.loc[0, ["image_bytes", "label_bytes", "total_bytes"]].tolist() == [300, 40, 340]
    assert actual.loc[1:, "total_bytes"].isna().all()
    assert with_bytes(frame.iloc[3:], pd.DataFrame())["total_bytes"].isna().tolist() == [True]
