"""The pictures of the report: their size, and what is left out of a page that would be too large."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ddbench.report import pictures
from ddbench.results import records as records_module
from ddbench.results.records import Record


def test_a_picture_too_many_is_left_out_and_named(record: Callable[..., Record], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    actual = []
    for number in range(3):
        own = record(50.0, repeat=2 - number, distilled_digest=f"{number:08d}")
        run = records_module.run_name(own.method, own.dataset, own.ipc, own.distilled_digest)
        path = tmp_path / "runs" / run / "preview.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(random.integers(0, 256, (500, 1000, 3), dtype=np.uint8)).save(path)
        actual.append((own, path))
    actual[0][1].write_bytes(b"no picture")
    messages: list[str] = []
    ample = pictures.PictureBudget()
    (one, other) = pictures.previews([own for own, _ in actual], tmp_path, ample, messages.append)
    assert len(messages) == 1
    assert str(actual[0][1]) in messages[0]
    content = base64.b64decode(one.uri.partition(",")[2])
    (tmp_path / "one.webp").write_bytes(content)
    with Image.open(tmp_path / "one.webp") as picture:
        assert picture.size == one.size == (640, 320)
    assert ample.left_out == []
    # Room for one: the first set (repeat 0) is taken, the next is named.
    tight = pictures.PictureBudget(max(len(content), pictures.MAX_BYTES - ample.remaining - len(content)))
    (kept,) = pictures.previews([own for own, _ in actual], tmp_path, tight, messages.append)
    assert kept in (one, other)
    assert kept.records == [actual[2][0].name]
    assert tight.left_out == [f"runs/{actual[1][1].parent.name}/preview.png"]
