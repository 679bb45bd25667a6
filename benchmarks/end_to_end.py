"""The quick ImageNette run (WMDD, IPC 10, one student, cold cache) against a plain pipeline: unit times x counts."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import recover
import torch
import training as students
from measuring import Row, device, interleaved, seconds, write
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision.transforms import v2 as transforms

from ddbench.api.dataset import DatasetSpec, Source, Split
from ddbench.config.experiment import Experiment
from ddbench.config.schema import RuntimeConfig, TeacherConfig
from ddbench.data.dataset import Dataset, load_dataset
from ddbench.data.source import FileSplit
from ddbench.nn import device as devices
from ddbench.nn.build import build_network
from ddbench.nn.statistics import collect
from ddbench.nn.taps import TappedNetwork
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.results import records
from ddbench.storage.cache import Cache
from ddbench.training import teacher as teacher_module

REQUEST = Request(methods=("wmdd",), datasets=("imagenette",), ipcs=(10,), recipes=("quick",))
FAST = replace(REQUEST, recipes=("quick", "fast-teacher"))
FAST_EPOCHS = 4
"""Epochs of a unit of the teacher of `FAST`: its images have each size in the same share of them as in the recipe."""
TRAIN, VAL = 9469, 3925
IMAGES = 1280
"""Real images of each split for the unit times."""
BATCH = 100
VALIDATES_EVERY = 10
"""Epochs of a student between two validations, in the released code."""


def images() -> tuple[DatasetSpec, str]:
    """Returns part of ImageNette as files, if DDBENCH_DATA has it, else the digits; and a description."""
    registry = PluginRegistry()
    spec = registry.dataset("imagenette")
    if "DDBENCH_DATA" not in os.environ:
        return registry.dataset("digits"), "on the digits: DDBENCH_DATA names no folder with ImageNette's files"
    complete = spec.open(Path(os.environ["DDBENCH_DATA"]))

    def part(split: Split) -> Split:
        assert isinstance(split, FileSplit)
        files = list(zip(split.labels.tolist(), split.names, strict=True))
        return FileSplit(split.root, files[:: len(files) // IMAGES][:IMAGES])

    assert complete.val is not None
    some = Source(complete.class_names, part(complete.train), part(complete.val), complete.class_titles)
    extent = f"on {len(some.train.labels)} of ImageNette's images"
    return DatasetSpec("part", "", "", 224, lambda _: some), extent


class PlainImages(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Image files like torchvision's ImageFolder: reads and decodes a file at each access."""

    def __init__(self, split: Split, transform: Callable[[Any], Tensor]) -> None:
        self.split, self.transform = split, transform

    def __len__(self) -> int:
        return len(self.split.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.split.image(index)), int(self.split.labels[index])


class Ours:
    """Our stages on real images, each over all images of `spec` once."""

    def __init__(self, spec: DatasetSpec, experiment: Experiment, dataset: Dataset, precision: str) -> None:
        self.spec, self.dataset, self.precision = spec, dataset, precision
        self.config = experiment.data
        self.settings = experiment.teacher
        self.network = network(dataset)
        self.tapped = TappedNetwork(network(dataset)).to(memory_format=torch.channels_last)

    def decode(self) -> None:
        """Decodes into a cold cache; once per run."""
        with tempfile.TemporaryDirectory() as folder:
            dataset = load_dataset(self.spec, self.config, None, Cache(Path(folder)))
            assert min(len(dataset.train), len(dataset.val))

    def teacher(self, settings: TeacherConfig, epochs: int) -> None:
        """Trains some epochs."""
        settings = settings.model_copy(update={"epochs": epochs})
        teacher_module.train_on_real_images(self.network, self.dataset, settings, 0, device(), self.precision)

    def passes(self) -> None:
        """Runs the bare passes of an epoch: the limit of `teacher`."""
        self.network.train()
        for images in self._random(len(self.dataset.train), self.settings.batch_size):
            self.network.zero_grad()
            with devices.autocast(device(), self.precision):
                loss = self.network(images).square().mean()
            loss.backward()

    @torch.no_grad()
    def forward_passes(self, count: int, precision: str) -> None:
        """Runs the bare forward passes of `count` images: the limit of `features` (float32) and `validation`."""
        self.network.eval()
        for images in self._random(count, BATCH):
            with devices.autocast(device(), precision):
                self.network(images)

    def _random(self, count: int, batch_size: int) -> Iterator[Tensor]:
        """Yields `count` images in batches; each is a view of the same images."""
        size = self.dataset.info.image_size
        images = torch.randn(batch_size, 3, size, size, device=device()).contiguous(memory_format=torch.channels_last)
        for start in range(0, count, batch_size):
            yield images[: count - start]

    def features(self) -> None:
        """Computes features and moments of all images as one class, in the batches of an ImageNette class."""
        rows = torch.split(torch.arange(len(self.dataset.train)), BATCH)
        collect(self.tapped, (self.dataset.evaluation_view("train", part).to(device()) for part in rows), "exact")

    def validation(self) -> None:
        """Measures the accuracy."""
        teacher_module.accuracy(self.network, self.dataset, "val", device(), self.precision)


class Plain:
    """The same stages in float32, as in torchvision's reference and the released code: decodes files at each access."""

    def __init__(self, spec: DatasetSpec, experiment: Experiment, dataset: Dataset) -> None:
        config, self.settings, source = experiment.data, experiment.teacher, spec.open(None)
        dressed = [
            transforms.PILToTensor(),
            transforms.ToDtype(torch.float32, scale=True),
            transforms.Normalize(dataset.mean.tolist(), dataset.std.tolist()),
        ]
        size = config.image_size
        seen = transforms.Compose([transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), *dressed])
        still = transforms.Compose([transforms.Resize(config.stored_size), transforms.CenterCrop(size), *dressed])
        workers: dict[str, Any] = {"num_workers": torch.get_num_threads(), "persistent_workers": True}
        self.epochs = DataLoader(PlainImages(source.train, seen), self.settings.batch_size, shuffle=True, **workers)
        self.train = DataLoader(PlainImages(source.train, still), BATCH, **workers)
        assert source.val is not None
        self.val = DataLoader(PlainImages(source.val, still), BATCH, **workers)
        self.network = network(dataset)

    def teacher(self) -> None:
        """Trains one epoch."""
        self.network.train()
        optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=self.settings.learning_rate,
            momentum=self.settings.momentum,
            weight_decay=self.settings.weight_decay,
        )
        for images, labels in self.epochs:
            optimizer.zero_grad()
            loss = functional.cross_entropy(self.network(images.to(device())), labels.to(device()))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def features(self) -> None:
        """Computes moments with hooks on the BatchNorm layers."""
        moments: list[Tensor] = []

        def keep(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
            moments.extend((inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3), unbiased=False)))

        layers = [layer for layer in self.network.modules() if isinstance(layer, nn.BatchNorm2d)]
        hooks = [layer.register_forward_hook(keep) for layer in layers]
        self._look(self.train)
        for hook in hooks:
            hook.remove()

    def validation(self) -> None:
        """Measures the accuracy."""
        self._look(self.val)

    @torch.no_grad()
    def _look(self, loader: DataLoader[tuple[Tensor, int]]) -> None:
        self.network.eval()
        for images, _ in loader:
            self.network(images.to(device())).argmax(1)


def network(dataset: Dataset) -> nn.Module:
    """Builds the teacher of the recipe."""
    return build_network("resnet18", dataset.info.num_classes, dataset.info.image_size, "imagenet", 0).to(device())


def measure(repetitions: int) -> list[Row]:
    """Measures the seconds of every stage (unit time x count of the recipe) and of all stages.

    Both sides leave out the barycenters (10 classes of about 950 images: seconds).
    """
    experiment = experiments(REQUEST, PluginRegistry())[0]
    precision = devices.resolve(RuntimeConfig(device=device().type)).precision
    spec, extent = images()
    quick, fast = experiment.teacher, experiments(FAST, PluginRegistry())[0].teacher
    with tempfile.TemporaryDirectory() as folder:
        dataset = load_dataset(spec, experiment.data, None, Cache(Path(folder) / "part"))
        train, val = len(dataset.train), len(dataset.val)
        ours, plain = Ours(spec, experiment, dataset, precision), Plain(spec, experiment, dataset)
        matched = recover.Case(BATCH, experiment.data.image_size, device())
        student = students.Student(students.digits(Path(folder) / "digits"), precision)
        runs: dict[str, Callable[[], object]] = {
            "decode": ours.decode,
            "teacher": lambda: ours.teacher(quick, 1),
            "fast teacher": lambda: ours.teacher(fast, FAST_EPOCHS),
            "plain teacher": plain.teacher,
            "features": ours.features,
            "plain features": plain.features,
            "recover": lambda: matched.ours(precision),
            "plain recover": matched.reference,
            "student": student.ours,
            "plain student": student.reference,
            "validation": ours.validation,
            "plain validation": plain.validation,
            "bare teacher": ours.passes,
            "bare features": lambda: ours.forward_passes(train, "fp32"),
            "bare recover": matched.limit,
            "bare student": student.limit,
            "bare validation": lambda: ours.forward_passes(val, precision),
        }
        taken = interleaved(runs, repetitions, warm=1)
    epochs, steps = quick.epochs, cast(Any, experiment.method).steps
    student_steps = cast(Any, experiment.evaluator).epochs
    looks = student_steps // VALIDATES_EVERY
    counts: list[tuple[str, str, float, float]] = [
        # stage, description, and how many timed units the recipe has: ours, plain
        ("decode", f"{TRAIN + VAL} images once; plain: within the others", (TRAIN + VAL) / (train + val), 0),
        ("teacher", f"{epochs} epochs of {TRAIN}", epochs * TRAIN / train, epochs * TRAIN / train),
        ("features", f"{TRAIN} images", TRAIN / train, TRAIN / train),
        ("recover", f"{steps} steps of {BATCH}", steps / recover.STEPS, steps / recover.STEPS),
        ("student", f"{student_steps} steps of {BATCH}", *[student_steps / students.STEPS] * 2),
        ("validation", f"{VAL} images twice; plain: {looks + 1} times", 2 * VAL / val, (looks + 1) * VAL / val),
    ]
    rows = [
        Row(
            "end to end",
            f"{name}: {case}",
            taken[name] * count,
            taken.get(f"plain {name}", 0.0) * plain_count,
            taken[f"bare {name}"] * count if f"bare {name}" in taken else None,
        )
        for name, case, count, plain_count in counts
    ]
    total = Row(
        "end to end",
        "all",
        sum(row.ours for row in rows),
        sum(row.reference or 0 for row in rows),
        sum(row.limit or 0 for row in rows),
    )
    (slow,) = (row for row in rows if row.case.startswith("teacher"))
    fast_seconds = taken["fast teacher"] * fast.epochs / FAST_EPOCHS * TRAIN / train
    case = f"teacher with fast-teacher: {fast.epochs} epochs of {TRAIN}"
    fast_row = replace(slow, case=case, ours=fast_seconds, limit=None)
    fast_total = replace(total, case="all, with fast-teacher", ours=total.ours - slow.ours + fast_seconds, limit=None)
    return [*rows, fast_row, replace(total, agreement=extent), fast_total]


def whole_run() -> None:
    """Runs the command in a fresh cache; prints the seconds of its stages and its top-1."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--method", "wmdd", "--dataset", "imagenette", "--ipc", "10", "--recipe", "quick", "--seeds", "1"]
        places = ["--cache-dir", f"{folder}/cache", "--results-dir", f"{folder}/results"]
        command = [sys.executable, "-c", "from ddbench.cli.main import main; main()", "run", *arguments, *places]
        taken = seconds(lambda: subprocess.run(command, check=True))
        (path,) = (Path(folder) / "results" / "records").glob("*.json")
        record = records.read(path)
    stages = ", ".join(f"{name} {value:.0f} s" for name, value in record.seconds.items())
    print(f"the whole command: {taken:.0f} s ({stages}), top-1 {record.metrics.top1_last:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="run the command itself instead (needs ImageNette)")
    given = parser.parse_args()
    whole_run() if given.full else write("end_to_end", measure(given.repetitions))
