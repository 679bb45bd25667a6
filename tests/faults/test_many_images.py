"""A set too large for the decoded cache takes no more of the host's memory with 100 times the images: measured."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CLASSES, STORED, FEATURES = 20, 96, 512
DECODED = 3 * STORED**2
"""Bytes of one image in memory."""

CHILD = """
import re, sys, threading, time
from pathlib import Path
from ddbench.cli.main import main
from ddbench.data import images

images.MAX_CACHED_BYTES = 0  # every set is too large
peak = 0

def watch():
    global peak
    while True:
        status = Path("/proc/self/status").read_text()
        peak = max(peak, 1024 * int(re.findall(r"RssAnon:\\s+(\\d+)", status)[0]))
        time.sleep(0.005)

threading.Thread(target=watch, daemon=True).start()
sys.argv = ["ddbench", *sys.argv[1:]]
try:
    main()
finally:
    print("peak", peak)
"""
"""Runs the command line and tells the largest resident memory that is no file's: mapped artifacts can be dropped."""


def bound(images: int) -> int:
    """Bytes that may come with so many images: of the views of an epoch 2 KB each, of one class's features 4 copies."""
    return 2048 * images + 4 * 8 * FEATURES * images // CLASSES + 32 * 2**20


def folder(root: Path, count: int) -> Path:
    """`count` images for training in all, of 40 files: an image more is a name more."""
    draw = np.random.default_rng(0)
    for label in range(CLASSES):
        made: list[Path] = []
        for split, number in (("train", count // CLASSES), ("val", 2)):
            place = root / split / f"{label:02d}"
            place.mkdir(parents=True)
            for index in range(number):
                path = place / f"{index}.jpg"
                if len(made) < 2:
                    pixels = draw.integers(0, 256, (STORED, STORED, 3)) // 2 + 6 * label
                    Image.fromarray(pixels.astype(np.uint8)).save(path)
                    made.append(path)
                else:
                    os.link(made[index % 2], path)
    return root


@pytest.mark.slow(20)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells what is resident")
def test_many_times_the_images_take_no_more_memory(
    tmp_path: Path, counted: Callable[[int, int], int], tally: Callable[[str], None]
) -> None:
    """Teacher, statistics, random, WMDD, students and transport cost, each in one command on the same few classes."""
    few, many = 500, counted(2_000, 50_000)
    peaks = []
    for count in (few, many):
        root = folder(tmp_path / str(count), count)
        command = [sys.executable, "-c", CHILD, "run", "--dataset", f"imagefolder:{root}", "--recipe", "smoke"]
        command += ["--image-size", "16", "--set", f"data.stored_size={STORED}", "--set", "teacher.batch_size=100"]
        command += ["--method", "random", "--method", "wmdd", "--ipc", "1", "--set", "wmdd.steps=2"]
        command += ["--device", "cpu", "--precision", "fp32", "--set", "evaluator.epochs=1"]
        command += [
            "--cache-dir",
            str(tmp_path / f"cache {count}"),
            "--results-dir",
            str(tmp_path / f"results {count}"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not list((tmp_path / f"cache {count}" / "data").glob("*pixels*"))
        peaks.append(int(done.stdout.split()[-1]))
    grown, allowed = peaks[1] - peaks[0], bound(many) - bound(few) + 32 * 2**20
    assert grown < allowed < (many - few) * DECODED
    tally(
        f"memory: {few} and {many} images of {DECODED} bytes: peaks of {peaks[0] / 2**20:.0f} and "
        f"{peaks[1] / 2**20:.0f} MiB (bound: {allowed / 2**20:.0f} more; all images: {many * DECODED / 2**20:.0f})"
    )
