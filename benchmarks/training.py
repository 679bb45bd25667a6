"""A student step with online labels, the input pipeline of a teacher step, and the statistics of a class, ResNet-18."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from measuring import Row, device, difference, interleaved, write
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import v2 as transforms

from ddbench.api.settings import TrainingSettings
from ddbench.config.schema import DataConfig, RuntimeConfig
from ddbench.data.dataset import Dataset, load_dataset
from ddbench.data.registry import ddbench_datasets
from ddbench.evaluators.fkd_labels import OnlineLabels
from ddbench.evaluators.protocols import KnowledgeDistillation
from ddbench.evaluators.students import weighted
from ddbench.nn import device as devices
from ddbench.nn.build import build_network
from ddbench.nn.device import autocast
from ddbench.nn.statistics import collect
from ddbench.nn.taps import TappedNetwork
from ddbench.storage.cache import Cache
from ddbench.training import batches, loop
from ddbench.training.batches import Batch

SIZE, CLASSES = 64, 10
BATCH = {"student": 100, "teacher": 32}
STEPS = 4
TEMPERATURE = 20.0


def network(seed: int) -> nn.Module:
    """Builds a ResNet-18 for the digits."""
    built = build_network("resnet18", CLASSES, SIZE, "imagenet", seed)
    return built.to(device(), memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def digits(folder: Path, size: int = SIZE, stored: int = 72) -> Dataset:
    """Loads the digits, enlarged."""
    spec = next(spec for spec in ddbench_datasets() if spec.name == "digits")
    return load_dataset(spec, DataConfig(image_size=size, stored_size=stored), None, Cache(folder))


class Student:
    """A student on 100 images whose labels the teacher computes at every step."""

    def __init__(self, dataset: Dataset, precision: str) -> None:
        self.dataset, self.precision = dataset, precision
        self.images = dataset.train.centre(torch.arange(BATCH["student"]) * 14, SIZE)
        self.labels = dataset.train.labels[torch.arange(BATCH["student"]) * 14]
        self.teacher = TappedNetwork(network(1))
        self.student = network(2)

    def source(self, precision: str) -> OnlineLabels:
        """Returns views and labels of STEPS epochs of one batch."""
        task = SimpleNamespace(
            dataset=self.dataset,
            images=self.images,
            labels=self.labels,
            seed=0,
            device=device(),
            precision=precision,
            teacher=self.teacher,
        )
        settings = KnowledgeDistillation(epochs=STEPS)
        return OnlineLabels(cast(Any, task), settings, settings.temperature)

    @torch.no_grad()
    def apart(self) -> float:
        """Returns the relative difference of our float32 loss of a batch to the plain formula on the same views."""
        source = self.source("fp32")
        batch = next(source.batches(source.views(0)))
        logits = self.student(batch.images)
        targets = torch.softmax(self.teacher.network(batch.images) / TEMPERATURE, 1)
        plain = functional.kl_div(functional.log_softmax(logits / TEMPERATURE, 1), targets, reduction="batchmean")
        return difference(source.losses(0, batch)(logits).mean(), plain)

    def ours(self) -> None:
        """STEPS epochs of one batch through `training.fit`."""
        source = self.source(self.precision)
        weights = torch.ones(len(self.labels), device=device())

        def epoch_batches(epoch: int) -> Iterator[Batch]:
            for batch in source.batches(source.views(epoch)):
                yield Batch(batch.images, weighted(source.losses(epoch, batch), weights[batch.rows]))

        recipe = TrainingSettings(optimizer="adamw", learning_rate=1e-3, decay_vectors=False, epochs=STEPS)
        loop.fit(self.student, epoch_batches, recipe, device(), self.precision)

    def reference(self) -> None:
        """Runs the same steps like the released code of FKD: float32, one image at a time through torchvision."""
        crop = transforms.Compose(
            [transforms.RandomResizedCrop(SIZE, antialias=True), transforms.RandomHorizontalFlip()]
        )
        optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-3, weight_decay=0.01)
        cutmix = transforms.CutMix(num_classes=CLASSES)
        for _ in range(STEPS):
            views = torch.stack([crop(image.float() / 255) for image in self.images]).to(device())
            views, _labels = cutmix(views, self.labels.to(device()))
            views = self.dataset.normalise(views)
            with torch.no_grad():
                targets = torch.softmax(self.teacher.network(views) / TEMPERATURE, 1)
            logits = functional.log_softmax(self.student(views) / TEMPERATURE, 1)
            optimizer.zero_grad()
            functional.kl_div(logits, targets, reduction="batchmean").backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def limit(self) -> None:
        """Runs student forward and backward, and teacher forward, on one existing batch."""
        views = torch.zeros(BATCH["student"], 3, SIZE, SIZE, device=device()).contiguous(
            memory_format=torch.channels_last
        )
        for _ in range(STEPS):
            with autocast(device(), self.precision):
                with torch.no_grad():
                    self.teacher.network(views)
                loss = self.student(views).float().square().sum()
            torch.autograd.grad(loss, list(self.student.parameters()))


class Views:
    """The input pipeline of an epoch, in the teacher's batches of 32: crop, flip, normalise."""

    def __init__(self, dataset: Dataset, precision: str) -> None:
        self.dataset, self.precision = dataset, precision
        self.network = network(3)
        self.part = torch.arange(BATCH["teacher"] * STEPS)

    def ours(self) -> list[Tensor]:
        """STEPS batches as `training.train_on_real_images` makes them."""
        from ddbench.augment import crops as crops_module
        from ddbench.augment import views as views_module

        images, dataset = self.dataset.train, self.dataset
        seen = views_module.epoch_views(len(self.part), images.sizes[self.part], 0, 0, BATCH["teacher"])
        boxes, flips = seen.boxes.to(device()), seen.flips.to(device())
        mean, std = dataset.mean.to(device()), dataset.std.to(device())
        drawn = []
        for part in seen.batches:
            decoded = batches.to_device(images.read(seen.order[part])[0], device()).float() / 255
            drawn.append(
                crops_module.normalise(crops_module.crop_resize(decoded, boxes[part], SIZE, flips[part]), mean, std)
            )
        return drawn

    def reference(self) -> list[Tensor]:
        """Computes the same crops image by image through torchvision."""
        from ddbench.augment import views as views_module

        images = self.dataset.train
        seen = views_module.epoch_views(len(self.part), images.sizes[self.part], 0, 0, BATCH["teacher"])
        drawn = []
        for part in seen.batches:
            pixels = images.read(seen.order[part])[0]
            crops = []
            for image, box, flip in zip(pixels, seen.boxes[part].tolist(), seen.flips[part].tolist(), strict=True):
                crop = transforms.functional.resized_crop(image.float() / 255, *box, [SIZE, SIZE], antialias=True)
                crops.append(crop.flip(-1) if flip else crop)
            drawn.append(self.dataset.normalise(torch.stack(crops).to(device())))
        return drawn

    def step(self) -> None:
        """Runs STEPS bare training steps, forward and backward: the limit of the pipeline."""
        images = torch.zeros(BATCH["teacher"], 3, SIZE, SIZE, device=device()).contiguous(
            memory_format=torch.channels_last
        )
        for _ in range(STEPS):
            with autocast(device(), self.precision):
                loss = self.network(images).float().square().sum()
            torch.autograd.grad(loss, list(self.network.parameters()))


class Statistics:
    """The statistics of one class: features, and mean and variance of every BatchNorm input, in float32."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.rows = dataset.train.of_class(0)[: BATCH["student"]]
        self.plain, self.teacher = network(4).eval(), TappedNetwork(network(4))

    def ours(self) -> list[Tensor]:
        """The stage's own function on evaluation views. Returns the variances."""
        views = self.dataset.evaluation_view("train", self.rows).to(device())
        return collect(self.teacher, [views], "exact").bn_vars

    @torch.no_grad()
    def reference(self) -> list[Tensor]:
        """Reads the images one by one, and computes the variances in hooks of the network."""
        variances: list[Tensor] = []
        layers = [layer for layer in self.plain.modules() if isinstance(layer, nn.BatchNorm2d)]
        hooks = [
            layer.register_forward_pre_hook(lambda _, inputs: variances.append(inputs[0].var((0, 2, 3), correction=0)))
            for layer in layers
        ]
        views = [self.dataset.evaluation_view("train", row.view(1)) for row in self.rows]
        self.plain(torch.cat(views).to(device()))
        for hook in hooks:
            hook.remove()
        return variances

    @torch.no_grad()
    def limit(self) -> None:
        """Runs the forward pass on one existing batch."""
        self.plain(
            torch.zeros(len(self.rows), 3, SIZE, SIZE, device=device()).contiguous(memory_format=torch.channels_last)
        )


def per_step(runs: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Returns the median seconds of one step of each run."""
    return {name: value / STEPS for name, value in interleaved(runs, repetitions, warm=1).items()}


def measure(repetitions: int) -> list[Row]:
    """Measures all three, the steps in the precision that suits the device."""
    precision = devices.resolve(RuntimeConfig(device=device().type)).precision
    with tempfile.TemporaryDirectory() as folder:
        dataset = digits(Path(folder))
        student = Student(dataset, precision)
        apart = student.apart()
        taken = per_step({"reference": student.reference, "ours": student.ours, "limit": student.limit}, repetitions)
        case = f"{BATCH['student']} x {SIZE} px, fkd online, {precision}"
        rows = [Row("student step", case, **taken, agreement=f"loss of a batch, fp32: {apart:.0e}")]
        pipeline = Views(dataset, precision)
        apart = max(map(difference, pipeline.ours(), pipeline.reference()))
        taken = per_step({"reference": pipeline.reference, "ours": pipeline.ours, "limit": pipeline.step}, repetitions)
        rows.append(
            Row(
                "input pipeline",
                f"{BATCH['teacher']} x {SIZE} px; limit: a training step, {precision}",
                **taken,
                agreement=f"views: {apart:.0e}",
            )
        )
        statistics = Statistics(dataset)
        apart = max(map(difference, statistics.ours(), (value.cpu() for value in statistics.reference())))
        taken = interleaved(
            {"reference": statistics.reference, "ours": statistics.ours, "limit": statistics.limit}, repetitions
        )
        case = f"{len(statistics.rows)} x {SIZE} px, fp32"
        rows.append(Row("statistics of a class", case, **taken, agreement=f"variances: {apart:.0e}"))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=9)
    write("training", measure(parser.parse_args().repetitions))
