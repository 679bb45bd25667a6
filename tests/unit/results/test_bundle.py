"""`ddbench submit` and `ddbench verify`: what a bundle holds, and that each fault is one clear line."""

from __future__ import annotations

import json
import re
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddbench.core.errors import DDBenchError
from ddbench.core.files import file_digest
from ddbench.distillation.distilled_set import set_digest
from ddbench.results import bundle, records, verified_json

if TYPE_CHECKING:
    from conftest import Finished, Shell

REFERENCE = Path(__file__).parents[3] / "results" / "reference"
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def sent(finished: Finished) -> Path:
    """A bundle of the records of both methods at IPC 1, as a folder. Copy it to change it."""
    outcome = finished.shell("submit", "wmdd-digits-ipc1", "random-digits-ipc1", "--output", "sent")
    assert outcome.code == 0, outcome.err
    return finished.shell.root / "sent"


@pytest.fixture
def copied(sent: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    for path in sent.rglob("*"):
        if path.is_file():
            target = tmp_path / "sent" / path.relative_to(sent)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return tmp_path / "sent"


def seal(folder: Path) -> None:
    """Writes the manifest again, as a sender with bad intentions does."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    files = {name: file_digest(folder / name) for name in sorted(names) if name != bundle.MANIFEST}
    (folder / bundle.MANIFEST).write_text(verified_json.dump({"format": 1, "ddbench": "0", "files": files}))


def change_record(folder: Path, method: str, change: Change) -> None:
    """Changes a record of a bundle, and seals both again."""
    (path,) = (folder / "records").glob(f"{method}-*")
    content = verified_json.load(path.read_text())
    change(content)
    path.write_text(verified_json.dump(content))
    seal(folder)


def refusal(shell: Shell, path: Path) -> str:
    """The one line with which `verify` refuses a bundle."""
    outcome = shell("verify", path)
    assert (outcome.code, outcome.out) == (2, ""), outcome.out
    (line,) = outcome.errors
    assert line.startswith(f"ddbench: bundle {path}")
    return line.removeprefix(f"ddbench: bundle {path}").removeprefix(": ")


def test_a_bundle_holds_records_images_previews_a_card_and_digests(sent: Path, finished: Finished) -> None:
    stored = {record.method: record for record in records.read_all(sent / "records", pytest.fail)}
    assert stored.keys() == {"wmdd", "random"}
    for record in stored.values():
        assert record == records.read(finished.shell.results / "records" / f"{record.name}.json")
    (tensors,) = sent.rglob("*.safetensors")
    assert set_digest(load_file(tensors)) == stored["wmdd"].distilled_digest
    assert json.loads((tensors.parent / "card.json").read_text())["name"] == stored["wmdd"].name
    assert [path.parent for path in sent.rglob("preview.png")] == [tensors.parents[1]]  # the others are real images
    card = (sent / "README.md").read_text()
    assert all(f"{record.name} " in card and f"{record.metrics.top1_last:.2f}" in card for record in stored.values())
    manifest = verified_json.load((sent / "bundle.json").read_text())
    on_disk = {path.relative_to(sent).as_posix() for path in sent.rglob("*") if path.is_file()}
    assert manifest["files"].keys() == on_disk - {"bundle.json"}


def test_a_good_bundle_passes_as_folder_and_as_zip_file(sent: Path, finished: Finished, tmp_path: Path) -> None:
    shell = finished.shell
    for name in ("one.zip", "two.zip"):
        outcome = shell("submit", "wmdd-digits-ipc1", "random-digits-ipc1", "--output", tmp_path / name)
        assert (outcome.code, outcome.out) == (0, f"written: {tmp_path / name}\n"), outcome.err
        (note,) = outcome.errors
        assert "without the images of random-digits-ipc1" in note
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    for path in (sent, tmp_path / "one.zip"):
        outcome = shell("verify", path)
        assert outcome.code == 0, outcome.err
        assert outcome.out.endswith("valid: 2 records; --repeat computes their numbers again\n")
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        archive.extractall(tmp_path / "received")
    assert shell("leaderboard", tmp_path / "received", "--output", tmp_path / "site").code == 0
    assert len([*(tmp_path / "site" / "images").iterdir()]) == 1


def test_every_committed_record_is_plausible() -> None:
    paths = sorted(REFERENCE.glob("*/records/*.json"))
    assert len(paths) > 300
    for path in paths:
        bundle._check_plausible(records.read(path))


def flip(folder: Path) -> None:
    (folder / "README.md").write_text("changed")


def remove(folder: Path) -> None:
    next(folder.rglob("card.json")).unlink()


def add(folder: Path) -> None:
    (folder / "records" / "more.json").write_text("{}")


def edit(folder: Path) -> None:
    text = (folder / "bundle.json").read_text()
    (folder / "bundle.json").write_text(text.replace('"format": 1', '"format": 1.5'))


def leave(folder: Path) -> None:
    (folder / "bundle.json").write_text(verified_json.dump({"format": 1, "ddbench": "0", "files": {"../x": "0" * 64}}))


def without(folder: Path) -> None:
    (folder / "bundle.json").unlink()


def empty(folder: Path) -> None:
    for path in (folder / "records").iterdir():
        path.unlink()
    seal(folder)


def other_images(folder: Path) -> None:
    path = next(folder.rglob("*.safetensors"))
    tensors = load_file(path)
    save_file({**tensors, "images": tensors["images"] ^ torch.tensor(1, dtype=torch.uint8)}, path)
    seal(folder)


def no_tensors(folder: Path) -> None:
    next(folder.rglob("*.safetensors")).write_bytes(b"no tensors")
    seal(folder)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (flip, "the file README.md is damaged, or was changed after ddbench submit"),
        (remove, "card.json is missing"),
        (add, "the file records/more.json is not listed in bundle.json"),
        (edit, "bundle.json: damaged, or changed by hand"),
        (leave, "the file ../x is missing"),
        (without, "it has no bundle.json, which ddbench submit writes"),
        (empty, "it holds no records"),
        (other_images, "is not the distilled set of a record of the bundle"),
        (no_tensors, "is not a file of tensors"),
    ],
)
def test_a_changed_bundle_is_refused(
    harm: Callable[[Path], None], message: str, copied: Path, finished: Finished
) -> None:
    harm(copied)
    assert message in refusal(finished.shell, copied)


def zipped(path: Path, entries: dict[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


LINK = zipfile.ZipInfo("records/a.json")
LINK.create_system, LINK.external_attr = 3, (stat.S_IFLNK | 0o777) << 16


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("../evil.json", "the file ../evil.json does not belong in a bundle"),
        ("records/../../evil.json", "does not belong in a bundle"),
        ("/etc/evil.json", "does not belong in a bundle"),
        ("records/..\\evil.json", "does not belong in a bundle"),
        ("C:evil.json", "does not belong in a bundle"),
        ("run.sh", "the file run.sh does not belong in a bundle"),
        ("/".join(["deep"] * 3000), "does not belong in a bundle"),
        (LINK, "records/a.json is not a file, but a link or a device"),
    ],
)
def test_a_bundle_has_no_file_that_leads_out_of_it(entry: str | zipfile.ZipInfo, message: str, tmp_path: Path) -> None:
    with pytest.raises(DDBenchError, match=re.escape(message)):
        bundle.check(zipped(tmp_path / "sent.zip", {bundle.MANIFEST: b"{}", entry: b"{}"}))


def test_a_folder_with_a_link_is_refused(copied: Path, finished: Finished) -> None:
    (path, _) = (copied / "records").iterdir()
    path.rename(copied.with_name("elsewhere.json"))
    path.symlink_to(copied.with_name("elsewhere.json"))
    assert refusal(finished.shell, copied) == f"records/{path.name} is not a file, but a link or a device"


def test_a_bundle_with_two_files_of_one_name_or_too_many_bytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zipped(tmp_path / "sent.zip", {bundle.MANIFEST: b"{}", "README.md": b"a"})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("README.md", b"b")
    with pytest.raises(DDBenchError, match="it holds two files README"):
        bundle.check(path)
    monkeypatch.setattr(bundle, "MAX_BYTES", 2)
    path = zipped(tmp_path / "sent.zip", {bundle.MANIFEST: b"{}", "README.md": b"a"})
    with pytest.raises(DDBenchError, match="its files have more than"):
        bundle.check(path)


def test_what_is_no_bundle_is_refused(finished: Finished, tmp_path: Path) -> None:
    for name, content in (("text.zip", b"text"), ("torn.zip", b"PK\x03\x04torn")):
        (tmp_path / name).write_bytes(content)
        outcome = finished.shell("verify", tmp_path / name)
        assert outcome.code == 2
        assert outcome.errors == [f"ddbench: bundle {tmp_path / name}: neither a folder nor a ZIP file"]
    outcome = finished.shell("verify", tmp_path / "nowhere")
    assert (outcome.code, outcome.errors) == (2, [f"ddbench: bundle {tmp_path / 'nowhere'}: there is none"])


def set_metric(name: str, value: object) -> Change:
    return lambda content: content["metrics"].update({name: value})


def set_field(name: str, value: object) -> Change:
    return lambda content: content.update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_metric("per_class", [99.0] * 10), "is not between those of its classes"),
        (set_field("name", "\x1b[2Ja"), "is implausible: a name with other characters"),
        (set_metric("per_class", [10.0]), "is implausible: top-1 of 1 classes, and the dataset has 10"),
        (
            set_metric("top1_last", 101.0),
            "is not a record: metrics.top1_last: Input should be less than or equal to 100",
        ),
        (set_field("distilled_images", 500), "is implausible: 500 images of 10 classes at IPC 1"),
        (
            set_field("created", "2999-01-01T00:00:00+00:00"),
            "is implausible: it was created on 2999-01-01, in the future",
        ),
        (set_field("created", "soon"), "is implausible: it was created on soon, which is not a time"),
        (set_field("seconds", {"evaluate": -1.0}), "is implausible: a stage with less than 0 seconds"),
        (set_field("evaluator_version", "99"), "protocol fkd has version 99, and version 1 is installed"),
        (set_field("method_version", "99"), "method random has version 99, and version"),
        (set_field("evaluator", "unheard"), "protocol unheard is not installed"),
        (set_field("unheard", 1), "is not a record: unheard:"),
    ],
)
def test_a_record_that_cannot_be_is_refused(change: Change, message: str, copied: Path, finished: Finished) -> None:
    change_record(copied, "random", change)
    assert message in refusal(finished.shell, copied)


def test_what_cannot_be_sent_is_refused_and_nothing_is_written(finished: Finished, tmp_path: Path) -> None:
    shell = finished.shell
    outcome = shell("submit", "wmdd-digits-ipc7", "--output", tmp_path / "bundle.zip")
    assert (outcome.code, len(outcome.errors)) == (2, 1)
    assert "no record 'wmdd-digits-ipc7'" in outcome.err
    assert [*tmp_path.iterdir()] == []
    (tmp_path / "kept.zip").write_text("kept")
    outcome = shell("submit", "wmdd-digits-ipc1", "--output", tmp_path / "kept.zip")
    assert outcome.code == 2
    assert "kept.zip exists: choose a new name" in outcome.err
    assert (tmp_path / "kept.zip").read_text() == "kept"


@pytest.mark.slow
def test_repeat_computes_the_records_again(copied: Path, finished: Finished, tmp_path: Path) -> None:
    shell = finished.shell
    results = ("--results-dir", tmp_path / "results")
    outcome = shell("verify", copied, "--repeat", *results)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("agrees: the same distilled set and the same accuracies") == 2
    assert outcome.out.endswith("repeated: 2 of 2 records agree\n")

    def better(content: dict[str, Any]) -> None:
        content["metrics"]["per_class"][0] += 10
        content["metrics"]["top1_last"] += 1

    change_record(copied, "random", better)
    outcome = shell("verify", copied, "--repeat", *results)
    assert outcome.code == 1, outcome.err
    assert "differs: the same distilled set, top-1 -1.00 percentage points" in outcome.out
