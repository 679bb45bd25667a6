"""DD-Ranking 0.2.0 and ddbench evaluate the same set, with hard labels and the same settings.

A set of random real images of ImageNette at 64 px, IPC 1, is exported by ddbench. Both programs train ConvNet-D3 on it:
SGD (momentum 0.9, weight decay 0.0005), the learning rate divided by 10 after half of 40 epochs, no augmentation. Both
measure top-1 on the first 50 validation images of each class, with the same pixels.

DD-Ranking reads ImageNette from a folder of all classes of ImageNet and does not keep the aspect ratio of images, so
`get_dataset` is replaced by a function that returns the pixels of ddbench. The training and the choice of the number
that is reported are those of DD-Ranking (`LabelRobustScoreHard`). The step `same-start` trains in DD-Ranking from the
initial weights of the students of ddbench.

DD-Ranking needs NumPy 1 and therefore an environment of its own. WORK is a new folder:

    uv venv --python 3.11 WORK/venv
    uv pip install --python WORK/venv/bin/python ddranking==0.2.0 "numpy<2"
    python benchmarks/peers/dd_ranking.py ours WORK --data-dir DATA          # DATA holds imagenette2/
    WORK/venv/bin/python benchmarks/peers/dd_ranking.py theirs WORK
    WORK/venv/bin/python benchmarks/peers/dd_ranking.py same-start WORK
    python benchmarks/peers/dd_ranking.py table WORK                         # writes results/benchmarks/dd-ranking.csv
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RATES = (0.001, 0.005, 0.01, 0.05, 0.1)
"""The learning rates that DD-Ranking tries if none is given."""
PAIRED_RATES = (0.01, 0.05)
"""The learning rates of `same-start`."""
SEEDS = 3
EPOCHS = 40
VALIDATED_EVERY = 10
"""Epochs between two measurements of DD-Ranking."""
SIZE = 64
VALIDATION = 50
"""Validation images per class."""
STEPS = ("ours", "theirs", "same-start")
PAIRED = "DD-Ranking, same start"
COLUMNS = ("program", "learning_rate", "seed", "epoch", "top1")
RESULT = Path(__file__).parents[2] / "results" / "benchmarks" / "dd-ranking.csv"


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows with the columns `COLUMNS`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "top1": f"{row['top1']:.2f}"} for row in rows)


def link_images(data: Path, folder: Path) -> None:
    """Makes an image folder of links: the training images, and the first validation images of each class."""
    (folder / "val").mkdir(parents=True)
    (folder / "train").symlink_to((data / "imagenette2" / "train").absolute())
    for source in sorted((data / "imagenette2" / "val").iterdir()):
        target = folder / "val" / source.name
        target.mkdir()
        for image in sorted(source.iterdir())[:VALIDATION]:
            (target / image.name).symlink_to(image.absolute())


def ours(work: Path, data: Path) -> None:
    """Evaluates with ddbench, and exports the set and the validation images."""
    import torch
    from safetensors.torch import save_file

    import ddbench
    from ddbench.config.schema import DataConfig
    from ddbench.core import seeds
    from ddbench.data.dataset import load_dataset
    from ddbench.nn.build import build_network
    from ddbench.registry.registry import PluginRegistry
    from ddbench.storage.cache import Cache

    link_images(data, work / "imagenette-500")
    name, cache, results = f"imagefolder:{work / 'imagenette-500'}", work / "cache", work / "results"
    rows = []
    for rate in RATES:
        settings = {
            **{"data.stored_size": SIZE, "runtime.threads": 1, "evaluator.strategy": None, "evaluator.epochs": EPOCHS},
            **{"evaluator.learning_rate": rate, "evaluator.momentum": 0.9, "evaluator.weight_decay": 0.0005},
        }
        frame = ddbench.run(
            "random",
            name,
            ipc=1,
            image_size=SIZE,
            evaluator="dsa",
            student="convnet-d3",
            seeds=SEEDS,
            precision="fp32",
            device="cpu",
            settings=settings,
            cache_dir=cache,
            results_dir=results,
        )
        for seed, top1 in zip(frame["student_seed"], frame["top1_last"], strict=True):
            rows.append({"program": "ddbench", "learning_rate": rate, "seed": seed, "epoch": EPOCHS, "top1": top1})
    write(work / "ours.csv", rows)
    options = {"--output": work / "set", "--cache-dir": cache, "--results-dir": results, "--data-dir": work}
    words = ["export", frame["name"].iloc[0], "--format", "safetensors", *(w for pair in options.items() for w in pair)]
    subprocess.run([sys.executable, "-m", "ddbench", *map(str, words)], check=True)
    for seed in range(SEEDS):
        student = build_network("convnet-d3", 10, SIZE, seed=seeds.derive("student", seed))
        save_file(student.state_dict(), work / f"start-{seed}.safetensors")
    spec, config = PluginRegistry().dataset(name), DataConfig(image_size=SIZE, stored_size=SIZE)
    dataset = load_dataset(spec, config, None, Cache(cache))
    images = dataset.val.centre(torch.arange(len(dataset.val.labels)), SIZE)
    constants = {"mean": dataset.mean.flatten(), "std": dataset.std.flatten()}
    save_file({"images": images, "labels": dataset.val.labels, **constants}, work / "validation.safetensors")


@dataclass(frozen=True)
class Peer:
    """DD-Ranking's evaluator on the exported set.

    Attributes:
        evaluator: A `LabelRobustScoreHard`.
        module: Its module.
        images: The normalised images of the set.
        labels: Their labels.
        measured: Every top-1 that it measures, in order.
    """

    evaluator: Any
    module: Any
    images: Any
    labels: Any
    measured: list[float]


def peer(work: Path) -> Peer:
    """Returns DD-Ranking's evaluator. It reads the pixels of ddbench."""
    import torch
    from ddranking.metrics import hard_label  # type: ignore[import-not-found]
    from ddranking.utils import TensorDataset  # type: ignore[import-not-found]
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    stored, real = load_file(work / "set" / "distilled.safetensors"), load_file(work / "validation.safetensors")
    mean, std = (real[name].view(1, 3, 1, 1) for name in ("mean", "std"))
    images, validation = ((tensors["images"].float() / 255 - mean) / std for tensors in (stored, real))
    dataset, classes = TensorDataset(validation, real["labels"]), {label: label for label in range(10)}
    measured: list[float] = []

    def get_dataset(*arguments: object) -> tuple[object, ...]:
        return 3, (SIZE, SIZE), mean, std, 10, dataset, dataset, dataset, classes, classes

    def validate(**arguments: Any) -> float:
        measured.append(original(**arguments))
        return measured[-1]

    original, hard_label.validate, hard_label.get_dataset = hard_label.validate, validate, get_dataset
    evaluator = hard_label.LabelRobustScoreHard(
        dataset="CIFAR10",  # the name selects files only, which `get_dataset` replaces
        ipc=1,
        model_name="ConvNet-3",
        data_aug_func=None,
        optimizer="sgd",
        lr_scheduler="step",
        step_size=EPOCHS // 2,
        weight_decay=0.0005,
        momentum=0.9,
        im_size=(SIZE, SIZE),
        num_epochs=EPOCHS,
        num_workers=0,
        save_path=str(work / "ddranking" / "scores.csv"),
        device="cpu",
    )
    return Peer(evaluator, hard_label, images, stored["labels"], measured)


def theirs(work: Path) -> None:
    """Evaluates with DD-Ranking: its search over the learning rates, and top-1 at each of its measurements."""
    from ddranking.utils import set_seed

    own, rows = peer(work), []
    epochs = range(VALIDATED_EVERY, EPOCHS + 1, VALIDATED_EVERY)
    points = [(rate, epoch) for rate in RATES for epoch in epochs]
    for seed in range(SEEDS):
        set_seed(seed)
        own.measured.clear()
        best, _ = own.evaluator._hyper_param_search_for_hard_label(own.images, None, own.labels, mode="syn")
        assert max(own.measured) == best
        for (rate, epoch), top1 in zip(points, own.measured, strict=True):
            row = {"program": "DD-Ranking", "learning_rate": rate, "seed": seed, "epoch": epoch, "top1": top1}
            rows.append(row)
    write(work / "theirs.csv", rows)


def same_start(work: Path) -> None:
    """Evaluates with DD-Ranking from the initial weights of ddbench, and measures after the last epoch only."""
    from safetensors.torch import load_file

    own, rows = peer(work), []
    own.evaluator.test_interval = EPOCHS
    for rate in PAIRED_RATES:
        for seed in range(SEEDS):
            model = own.module.build_model("ConvNet-3", num_classes=10, im_size=(SIZE, SIZE), device="cpu")
            model.load_state_dict(load_file(work / f"start-{seed}.safetensors"))
            top1 = own.evaluator._compute_hard_label_metrics(model, own.images, None, rate, own.labels, mode="syn")
            rows.append({"program": PAIRED, "learning_rate": rate, "seed": seed, "epoch": EPOCHS, "top1": top1})
    write(work / "same-start.csv", rows)


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the comparison of the last epochs, and the excess of the numbers that DD-Ranking reports, as text."""
    top1 = {(one["program"], one["learning_rate"], one["seed"], one["epoch"]): one["top1"] for one in rows}
    epochs = sorted({epoch for program, *_, epoch in top1 if program == "DD-Ranking"})
    seeds, last = range(SEEDS), epochs[-1]

    def mean(values: list[float]) -> str:
        return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"

    lines = ["| learning rate | ddbench, last epoch | DD-Ranking, last epoch | difference | DD-Ranking, best epoch |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for rate in RATES:
        own, other = ([top1[program, rate, seed, last] for seed in seeds] for program in ("ddbench", "DD-Ranking"))
        best = [max(top1["DD-Ranking", rate, seed, epoch] for epoch in epochs) for seed in seeds]
        difference = statistics.mean(other) - statistics.mean(own)
        lines.append(f"| {rate} | {mean(own)} | {mean(other)} | {difference:+.2f} | {mean(best)} |")
    reported = [max((top1["DD-Ranking", rate, s, epoch], rate) for rate in RATES for epoch in epochs) for s in seeds]
    excess = [value - top1["DD-Ranking", rate, s, last] for s, (value, rate) in zip(seeds, reported, strict=True)]
    fixed = [value - top1["DD-Ranking", 0.01, s, last] for s, (value, _) in zip(seeds, reported, strict=True)]
    lines += ["", "| learning rate | seed | ddbench | DD-Ranking, same initial weights |", "| --- | --- | --- | --- |"]
    for rate in PAIRED_RATES:
        for seed in seeds:
            values = (top1[program, rate, seed, last] for program in ("ddbench", PAIRED))
            lines.append(f"| {rate} | {seed} | {' | '.join(f'{value:.2f}' for value in values)} |")
    lines.append("")
    lines.append(
        f"DD-Ranking reports the best epoch of the best rate on the test images: {mean([v for v, _ in reported])}"
    )
    lines.append(f"above the last epoch of the same rate: {mean(excess)}; above the last epoch of 0.01: {mean(fixed)}")
    return "\n".join(lines)


def read(path: Path) -> list[dict[str, Any]]:
    """Reads rows as `write` writes them."""
    with path.open(newline="", encoding="utf-8") as file:
        types = {"program": str, "learning_rate": float, "seed": int, "epoch": int, "top1": float}
        return [{name: types[name](value) for name, value in row.items()} for row in csv.DictReader(file)]


def main() -> None:
    """Runs one of the steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=(*STEPS, "table"))
    parser.add_argument("work", type=Path, nargs="?", help="folder of the files; table: default, the committed result")
    parser.add_argument("--data-dir", type=Path, help="folder that holds imagenette2/")
    options = parser.parse_args()
    if options.step == "table":
        if options.work is not None:
            write(RESULT, [row for name in STEPS for row in read(options.work / f"{name}.csv")])
        print(table(read(RESULT)))
    elif options.step == "ours":
        ours(options.work.absolute(), options.data_dir)
    elif options.step == "theirs":
        theirs(options.work.absolute())
    else:
        same_start(options.work.absolute())


if __name__ == "__main__":
    main()
