"""What a table specification says by default."""

from ddbench.api.table import TOP1, Cell, TableQuery, TableSpec


def test_defaults() -> None:
    spec = TableSpec("mine", "about", lambda query: [Cell("a", "random", name, 1) for name in query.datasets])
    assert (spec.columns, spec.ipcs, spec.row) == (("ipc",), (10,), "method")
    assert spec.metrics == TOP1
    assert spec.metrics is not TOP1
    (cell,) = spec.cells(TableQuery(("digits",), (), ()))
    assert (cell.dataset, cell.student, cell.settings) == ("digits", None, {})
    assert TOP1["top1"].digits == 2
    assert TOP1["top1"].show_difference
