"""Results on shared storage: the records of all hosts, and uploads that are made up for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddbench.core.errors import DDBenchError
from ddbench.storage import remote_folder, remote_results

if TYPE_CHECKING:
    from conftest import Shell, Storage


@pytest.mark.slow
def test_results_are_those_of_all_hosts(shell: Shell, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    places = ("--cache-dir", storage.url("cache"), "--results-dir", storage.url("results"))
    shell.run("--method", "random", "--dataset", "digits", "--ipc", "1", *places)
    names = {name.partition("/")[0]: name for name in storage.objects("results")}
    assert names.keys() == {"records", "runs"}
    name = Path(names["records"]).stem
    other = type(shell)(shell.root / "elsewhere")
    other.root.mkdir()
    monkeypatch.setattr(remote_folder, "local_copies", lambda: other.root / "copies")
    assert name in other("records", "--results-dir", places[-1]).out
    assert name in other("show", "--results-dir", places[-1]).out
    quick = ("--recipe", "smoke", "--device", "cpu", "--precision", "fp32")
    small = ("--image-size", "8", "--set", "teacher.batch_size=256")
    grid = ("--dataset", "digits", "--ipc", "1", "--methods", "random", *quick, *small)
    table = other("table", "comparison", "--run", *grid, *places, "--format", "csv")
    assert table.code == 0, table.err
    assert "random" in table.out
    # Another host's newer record of the same name is taken, one that was removed there is gone.
    path = f"{storage.bucket}/results/{names['records']}"
    storage.files.pipe_file(path, storage.files.cat_file(path) + b"\n \n")
    assert name in other("show", "--results-dir", places[-1]).out
    storage.files.rm_file(path)
    assert other("records", "--results-dir", places[-1]).code == 2


def test_a_record_that_could_not_be_published_is_by_the_next_command(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ddbench.core.files import atomic_write

    monkeypatch.setattr(remote_folder, "RETRY_SECONDS", 0.0)
    path = remote_results.open_results(storage.url()) / "records" / "one.json"
    storage.fails(True)
    with pytest.raises(DDBenchError, match="run the same command again to upload it"), atomic_write(path) as partial:
        partial.write_text("{}")
    assert path.read_text() == "{}"
    storage.fails(False)
    remote_results.open_results(storage.url())
    assert path.read_text() == "{}"
    assert storage.objects() == {"records/one.json": b"{}"}
