"""Class folders and images as they lie in a folder: what is read, what is ignored, which names are valid."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ddbench.core.errors import DDBenchError
from ddbench.data.folders import open_imagefolder
from ddbench.data.listing import SUFFIXES, Listing

MakeFolder = Callable[..., Path]


def test_what_pillow_calls_jpeg_is_read(make_folder: MakeFolder) -> None:
    root = make_folder()
    for number, suffix in enumerate((".jfif", ".jpe", ".JFIF", ".pbm", ".pnm")):
        shutil.copy(root / "train" / "ant" / "0.jpg", root / "train" / "ant" / f"x{number}{suffix}")
    assert len(Listing(root).images("train/ant")) == 3 + 5
    assert {suffix for suffix, kind in Image.registered_extensions().items() if kind == "JPEG"} <= set(SUFFIXES)


def test_everything_else_is_counted_in_one_note(make_folder: MakeFolder) -> None:
    root = make_folder()
    assert open_imagefolder(root).notes == ()
    ant, bee = root / "train" / "ant", root / "val" / "bee"
    for path in (ant / "a.gif", ant / "b.GIF", bee / "notes.txt", bee / "README", bee / ".DS_Store", bee / ".x.jpg"):
        path.write_bytes(b"x")
    for folder in (ant / "@eaDir" / "0.jpg", root / "val" / "@eaDir", bee / ".thumbnails", root / "train" / "__MACOSX"):
        folder.mkdir(parents=True)
        shutil.copy(ant / "0.jpg", folder / "SYNOPHOTO_THUMB_M.jpg")
    shutil.copy(ant / "0.jpg", root / "train" / "loose.jpg")
    source = open_imagefolder(root)
    assert source.class_names == ("ant", "bee")
    assert (len(source.train.labels), len(source.val.labels)) == (6, 4)  # type: ignore[union-attr]
    (note,) = source.notes
    assert note == (
        f"{root}: ignored 2 .gif, 1 .txt, 1 files without a suffix, 2 folders @eaDir, 1 folders __MACOSX, "
        f"1 hidden folders, 1 hidden images, 1 images outside of class folders (read: {' '.join(SUFFIXES)})"
    )


@pytest.mark.parametrize("name", [b"caf\xe9", b"it's \xe9", b"\xff\xfe"])
def test_a_class_name_that_is_not_utf8_is_refused_with_the_command_that_renames_it(
    make_folder: MakeFolder, name: bytes
) -> None:
    root = make_folder()
    for split in ("train", "val"):
        (root / split / "ant").rename(root / split / os.fsdecode(name))
    for split in ("train", "val"):
        with pytest.raises(DDBenchError, match=r"class folder .* has a name that is not UTF-8; rename it") as caught:
            open_imagefolder(root)
        line = str(caught.value)
        assert line.isprintable()
        assert f"convmv -r -f latin1 -t utf8 --notest {root / split}" in line
        command = line.partition("rename it: ")[2].partition(", or all at once")[0]
        subprocess.run(["bash", "-c", command], check=True)
    assert name.decode("latin-1") in open_imagefolder(root).class_names


def test_file_names_need_not_be_utf8(make_folder: MakeFolder) -> None:
    root = make_folder()
    (root / "train" / "ant" / "0.jpg").rename(root / "train" / "ant" / os.fsdecode(b"\xe9t\xe9.jpg"))
    source = open_imagefolder(root)
    names = [source.train.name(index) for index in range(3)]
    assert names[-1] == f"{root}/train/ant/\\xe9t\\xe9.jpg"
    assert len(source.fingerprint()) == 32
    assert source.train.image(2).mode == "RGB"


@pytest.mark.parametrize(("train", "val"), [("café", "cafe\u0301"), ("cafe\u0301", "café")])
def test_two_unicode_forms_of_one_name_are_one_class(make_folder: MakeFolder, train: str, val: str) -> None:
    root = make_folder()
    (root / "train" / "ant").rename(root / "train" / train)
    (root / "val" / "ant").rename(root / "val" / val)
    source = open_imagefolder(root)
    assert source.class_names == tuple(sorted(["bee", train]))
    assert source.val is not None
    label = source.class_names.index(train)
    own = [source.val.name(index) for index in range(4) if source.val.labels[index] == label]
    assert own == [f"{root}/val/{val}/{number}.jpg" for number in range(2)]


def test_two_unicode_forms_of_one_name_in_one_part_are_refused(make_folder: MakeFolder) -> None:
    root = make_folder(classes=("café", "cafe\u0301"))
    with pytest.raises(DDBenchError, match=r"differ only in their Unicode form \('cafe\\u0301', 'caf\\xe9'\): move"):
        open_imagefolder(root)
