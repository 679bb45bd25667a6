"""Large folders: CPU seconds and peak memory to list and fingerprint many small files, for the first time and again."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from measuring import Row, write
from PIL import Image

from ddbench.config.schema import DataConfig
from ddbench.data import content
from ddbench.data.dataset import load_dataset
from ddbench.nn import device as devices
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache

COUNTS = (25_000, 100_000)
"""Files of the folders."""
CLASSES = 100
MEGABYTE = 2**20


def make_folder(folder: Path, count: int) -> None:
    """Writes `count` valid images with different contents, one in ten of them for validation."""
    encoded = io.BytesIO()
    Image.new("RGB", (8, 8)).save(encoded, "PNG")
    for split, share in (("train", count * 9 // 10), ("val", count // 10)):
        for label in range(CLASSES):
            (folder / split / f"{label:03}").mkdir(parents=True)
        for index in range(share):
            path = folder / split / f"{index % CLASSES:03}" / f"{index:07}.png"
            path.write_bytes(encoded.getvalue() + f"{split} {index}".encode())  # decoders ignore what follows


def read(folder: str, cache: str) -> dict[str, Any]:
    """Opens the folder as a run does, with the check for validation images among the training images."""
    content.SETTLED_SECONDS = 0.0
    spec = PluginRegistry().dataset(f"imagefolder:{folder}")
    before, start, cpu = psutil.Process().memory_info().rss, time.perf_counter(), time.process_time()
    dataset = load_dataset(spec, DataConfig(image_size=8, stored_size=8), None, Cache(Path(cache)))
    assert dataset.measured_in_train == 0
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    with devices.measured(torch.device("cpu")) as cost:
        pass
    return {
        "seconds": seconds,
        "cpu": cpu,
        "memory": cost.peak_resident - before,
        "fingerprint": dataset.info.fingerprint,
    }


def measure(repetitions: int, counts: tuple[int, ...] = COUNTS) -> list[Row]:
    """Measures each number once. The limit of the second reading is to list the folder and ask for every status."""
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "images"
            make_folder(folder, count)
            for turn in ("first", "again"):
                arguments = json.dumps([str(folder), str(Path(name) / "cache")])
                command = [sys.executable, __file__, "--part", arguments]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                values = json.loads(done.stdout.splitlines()[-1])
                start = time.process_time()
                for path in folder.rglob("*"):
                    path.stat()
                limit = time.process_time() - start
                about = f"wall {values['seconds']:.1f} s, memory +{values['memory'] / MEGABYTE:.0f} MB"
                rows.append(Row("folders", f"{count:,} files, {turn}", values["cpu"], limit=limit, agreement=about))
                print(rows[-1], values["fingerprint"][:8], file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, action="append", help="files of a folder; repeat for several")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        print(json.dumps(read(*json.loads(given.part))))
    else:
        write("folders", measure(1, tuple(given.count or COUNTS)))
