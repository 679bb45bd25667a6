"""The protocols: labels of the very view, both roads alike, equal steps, weights that reach the loss."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from ddbench.api.evaluator import Metrics
from ddbench.augment import crops, mixing
from ddbench.config.schema import TeacherConfig
from ddbench.data.dataset import Dataset
from ddbench.distillation.context import EvaluateContext
from ddbench.distillation.distilled_set import DistilledSet, class_weights
from ddbench.evaluators import ddbench_evaluators
from ddbench.evaluators.labels import ClassLabels, FixedSoftLabels, LabelSource, OnlineLabels, divergences
from ddbench.evaluators.protocols import DistilledSetProtocol, FullData, HardLabels, KnowledgeDistillation, SoftLabels
from ddbench.evaluators.students import weighted
from ddbench.evaluators.view_batches import view_batches
from ddbench.nn.build import build_network
from ddbench.nn.taps import TappedNetwork
from ddbench.storage.cache import Cache
from ddbench.storage.checkpoint import Checkpoint

CPU = torch.device("cpu")
SMALL = {"epochs": 4, "batch_size": 8}


@pytest.fixture(scope="module")
def digits(digits_at: Callable[..., Dataset]) -> Dataset:
    return digits_at(8)


@dataclasses.dataclass(frozen=True)
class WatchedTask(EvaluateContext):
    """The real task, noting what the student is shown and how often the teacher is asked."""

    shown: list[Tensor] = dataclasses.field(default_factory=list)
    asked: list[Tensor] = dataclasses.field(default_factory=list)

    def student(self) -> nn.Module:
        network = super().student()
        network.register_forward_pre_hook(
            lambda module, inputs: self.shown.append(inputs[0]) if module.training else None
        )
        return network


@pytest.fixture
def make_task(digits: Dataset, tmp_path: Path) -> Callable[..., WatchedTask]:
    """A task on 20 real digits (two a class) with unequal weights and an untrained teacher."""
    cache = Cache(tmp_path / "labels")
    indices = torch.cat([digits.train.of_class(k)[:2] for k in range(10)])
    labels = digits.train.labels[indices]
    raw = torch.rand(20, generator=torch.Generator().manual_seed(3)) + 0.1
    distilled = DistilledSet(digits, labels, class_weights(labels, raw), ("unit",), indices=indices)

    def cached(name: str, depends_on: Mapping[str, Any], fn: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        return cache.get("labels", {"name": name, **depends_on}, lambda slot: (fn(), {})).tensors

    def make(seed: int = 0, precision: str = "fp32", slot: str = "slot") -> WatchedTask:
        network = build_network("resnet18", 10, 8, "small", seed=5)
        asked: list[Tensor] = []
        network.register_forward_pre_hook(lambda module, inputs: asked.append(inputs[0].clone()))
        teacher = TappedNetwork(network)
        return WatchedTask(
            dataset=digits,
            distilled=distilled,
            teacher_training=TeacherConfig(arch="convnet-d2", epochs=1, batch_size=100, learning_rate=0.05),
            student_arch="convnet-d2",
            student_stem="auto",
            seed=seed,
            ipc=2,
            device=CPU,
            precision=precision,
            checkpoint=Checkpoint(tmp_path / f"{slot}.safetensors"),
            report=lambda step, total, **metrics: None,
            cached=cached,
            _teacher=lambda: teacher,
            asked=asked,
        )

    return make


def fkd(**settings: Any) -> KnowledgeDistillation:
    return KnowledgeDistillation.model_validate({**SMALL, **settings})


@pytest.mark.parametrize("alpha", [1.0, None])
def test_stored_labels_give_the_numbers_of_online_labels(
    make_task: Callable[..., WatchedTask], alpha: float | None
) -> None:
    online, stored, again = make_task(), make_task(), make_task()
    first = fkd(cutmix_alpha=alpha).evaluate(online)
    second = fkd(cutmix_alpha=alpha, labels="stored").evaluate(stored)
    assert first == second
    assert len(online.shown) == len(stored.shown) == 12
    for left, right in zip(online.shown, stored.shown, strict=True):
        assert torch.equal(left, right)
    assert fkd(cutmix_alpha=alpha, labels="stored").evaluate(again) == first
    assert stored.asked
    assert not again.asked  # replayed from the file


def test_stored_and_online_students_have_the_same_weights(make_task: Callable[..., WatchedTask]) -> None:
    """Accuracies of few images could agree by chance; the logits of a trained student cannot."""
    weights = []
    for labels in ("online", "stored"):
        task = make_task()
        trained: list[nn.Module] = []
        object.__setattr__(task, "student", lambda build=task.student, kept=trained: kept.append(build()) or kept[0])
        fkd(labels=labels).evaluate(task)
        weights.append(trained[0].state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_the_teacher_labels_exactly_what_the_student_sees(make_task: Callable[..., WatchedTask]) -> None:
    task = make_task()
    fkd().evaluate(task)
    assert len(task.asked) == len(task.shown) == 12
    for labelled, seen in zip(task.asked, task.shown, strict=True):
        assert torch.equal(labelled, seen)


def test_all_regimes_take_the_same_steps_on_the_same_views(make_task: Callable[..., WatchedTask]) -> None:
    results: dict[str, Metrics] = {}
    shown: dict[str, list[Tensor]] = {}
    protocols: list[type[DistilledSetProtocol]] = [KnowledgeDistillation, SoftLabels, HardLabels]
    for protocol in protocols:
        task = make_task()
        results[protocol.name] = protocol.model_validate(SMALL).evaluate(task)
        shown[protocol.name] = task.shown
    assert [result.regime for result in results.values()] == ["fkd", "soft", "hard"]
    assert {result.student_steps for result in results.values()} == {4 * 3}
    for name in ("soft", "hard"):
        assert all(torch.equal(a, b) for a, b in zip(shown["fkd"], shown[name], strict=True))


def test_views_are_those_of_a_loop(make_task: Callable[..., WatchedTask], digits: Dataset) -> None:
    task = make_task()
    epoch = ClassLabels(task, HardLabels.model_validate(SMALL)).views(2)
    for number, batch in enumerate(view_batches(task, epoch)):
        places = range(batch.positions.start, batch.positions.stop)
        alone = []
        for place in places:
            image = task.images[epoch.order[place]][None].float() / 255
            crop = crops.crop_resize(image, epoch.boxes[place], 8)
            alone.append(crop.flip(-1) if epoch.flips[place] else crop)
        mix = epoch.mixes[number]
        expected = digits.normalise(mixing.cutmix(torch.cat(alone), mix.partner, mix.box))
        torch.testing.assert_close(batch.images, expected, atol=1e-5, rtol=0)
        assert torch.equal(batch.rows, epoch.order[batch.positions])
        assert torch.equal(batch.pasted, epoch.order[batch.positions][mix.partner])


def test_unequal_weights_reach_the_loss() -> None:
    """Three samples, two classes, by hand in float64."""
    student = torch.tensor([[1.0, -2.0], [0.5, 0.0], [3.0, 1.0]])
    teacher = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [0.0, 0.0]])
    weights, temperature = torch.tensor([0.3, 2.2, 0.5]), 20.0
    expected = 0.0
    for s, t, w in zip(student.double(), teacher.double(), weights.double(), strict=True):
        q, p = (s / temperature).exp(), (t / temperature).exp()
        q, p = q / q.sum(), p / p.sum()
        expected += float(w * (p * (p / q).log()).sum()) / 3
    targets = torch.softmax(teacher / temperature, 1)
    loss = weighted(lambda logits: divergences(logits, targets, temperature), weights)(student)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    even = weighted(lambda logits: divergences(logits, targets, temperature), torch.ones(3))(student)
    released = functional.kl_div(functional.log_softmax(student / temperature, 1), targets, reduction="batchmean")
    torch.testing.assert_close(even, released)


@pytest.mark.parametrize("labels", [OnlineLabels, FixedSoftLabels, ClassLabels])
def test_the_weights_of_the_set_reach_the_training_loss(
    make_task: Callable[..., WatchedTask], labels: type[LabelSource]
) -> None:
    """One epoch of one step: the loss that is reported, against sample by sample in float64."""
    protocols: dict[type[LabelSource], type[DistilledSetProtocol]]
    protocols = {OnlineLabels: KnowledgeDistillation, FixedSoftLabels: SoftLabels, ClassLabels: HardLabels}
    settings = protocols[labels].model_validate({"epochs": 1})
    reported: list[float] = []
    task = dataclasses.replace(make_task(), report=lambda step, total, **metrics: reported.append(metrics["loss"]))
    settings.evaluate(task)

    temperature = () if labels is ClassLabels else (20.0,)
    source = labels(task, settings, *temperature)
    (batch,) = view_batches(task, source.views(0))
    with torch.no_grad():
        samples = source.losses(0, batch)(task.student()(batch.images)).tolist()
    weights = task.weights.double()[batch.rows].tolist()
    total = sum(task.weights.double().tolist())
    by_hand = sum(w * loss for w, loss in zip(weights, samples, strict=True)) / total
    unweighted = sum(samples) / 20
    assert reported == pytest.approx([by_hand], rel=1e-4)
    assert abs(by_hand / unweighted - 1) > 1e-3


def test_mixed_targets_by_hand(make_task: Callable[..., WatchedTask]) -> None:
    task = make_task()
    hard = ClassLabels(task, HardLabels.model_validate(SMALL))
    soft = FixedSoftLabels(task, SoftLabels.model_validate(SMALL), temperature=20)
    plain = task.dataset.normalise(task.images)
    with torch.no_grad():
        fixed = torch.softmax(task.teacher(plain).logits.half().float() / 20, 1)
    torch.testing.assert_close(soft.targets, fixed, atol=1e-4, rtol=0)
    logits = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    batch = next(iter(view_batches(task, hard.views(0))))
    mine, other = task.labels[batch.rows], task.labels[batch.pasted]
    expected = batch.share * functional.cross_entropy(logits, mine, reduction="none") + (
        1 - batch.share
    ) * functional.cross_entropy(logits, other, reduction="none")
    torch.testing.assert_close(hard.losses(0, batch)(logits), expected)
    target = batch.share * soft.targets[batch.rows] + (1 - batch.share) * soft.targets[batch.pasted]
    expected = (target * (target.log() - torch.log_softmax(logits / 20, 1))).sum(1)
    torch.testing.assert_close(soft.losses(0, batch)(logits), expected, atol=1e-6, rtol=1e-4)


def test_teacher_logits_are_rounded_to_half_precision(make_task: Callable[..., WatchedTask]) -> None:
    task = make_task()
    source = OnlineLabels(task, fkd(), temperature=20)
    batch = next(iter(view_batches(task, source.views(0))))
    with torch.no_grad():
        exact = task.teacher(batch.images).logits
    assert torch.equal(source.logits(0, batch), exact.half())
    assert not torch.equal(exact.half().float(), exact)


def test_sizes_are_recorded(make_task: Callable[..., WatchedTask]) -> None:
    """A view: ten fp16 logits, order and partner int32, four int16, a flip; a mixed batch: four int16."""
    assert fkd().evaluate(make_task()).label_bytes == 4 * (20 * (20 + 4 + 8 + 1 + 4) + 3 * 8)
    assert fkd(cutmix_alpha=None).evaluate(make_task()).label_bytes == 4 * 20 * (20 + 4 + 8 + 1)
    assert SoftLabels.model_validate(SMALL).evaluate(make_task()).label_bytes == 20 * 10 * 2
    hard = HardLabels.model_validate(SMALL).evaluate(make_task())
    assert hard.label_bytes == 20 * 8
    assert hard.image_bytes == 20 * 3 * 8 * 8


def test_the_batch_is_at_most_the_set(make_task: Callable[..., WatchedTask]) -> None:
    task = make_task()
    result = HardLabels(epochs=2, batch_size=100).evaluate(task)
    assert result.student_steps == 2
    assert [len(images) for images in task.shown] == [20, 20]


def test_seeds_repeat_and_differ(make_task: Callable[..., WatchedTask]) -> None:
    runs = [make_task(0), make_task(0), make_task(1)]
    results = [fkd().evaluate(task) for task in runs]
    assert results[0] == results[1]
    assert not torch.equal(runs[0].shown[0], runs[2].shown[0])


def test_best_is_tracked_only_when_asked_and_never_changes_the_result(
    make_task: Callable[..., WatchedTask],
) -> None:
    plain = fkd(epochs=6).evaluate(make_task())
    tracked = fkd(epochs=6, validate_every=2).evaluate(make_task())
    assert plain.top1_best is None
    assert tracked.top1_best is not None
    assert tracked.top1_best >= tracked.top1_last
    assert tracked.model_copy(update={"top1_best": None}) == plain


def test_bf16_trains(make_task: Callable[..., WatchedTask]) -> None:
    online = fkd().evaluate(make_task(precision="bf16"))
    assert online == fkd(labels="stored").evaluate(make_task(precision="bf16"))


def test_full_data_is_the_teacher_recipe_on_every_real_image(
    make_task: Callable[..., WatchedTask], digits: Dataset
) -> None:
    task = make_task()
    result = FullData().evaluate(task)
    assert result.student_steps == len(task.shown) == -(-len(digits.train) // 100)
    assert sum(len(images) for images in task.shown) == len(digits.train)
    assert not task.asked
    assert result.label_bytes == len(digits.train) * 8


def test_a_student_learns_digits_from_a_hundred_of_them(make_task: Callable[..., WatchedTask], digits: Dataset) -> None:
    indices = torch.cat([digits.train.of_class(k)[:10] for k in range(10)])
    labels = digits.train.labels[indices]
    distilled = DistilledSet(digits, labels, class_weights(labels, None), ("unit",), indices=indices)
    task = dataclasses.replace(make_task(), distilled=distilled)
    result = HardLabels(epochs=40, batch_size=20, cutmix_alpha=None, min_crop=0.6).evaluate(task)
    assert result.top1_last > 60
    assert sum(result.per_class) / 10 == pytest.approx(result.top1_last, abs=3)


def test_wrong_settings_are_refused() -> None:
    for wrong in (
        {"epochs": 0},
        {"temperature": 0},
        {"min_crop": 0},
        {"labels": "both"},
        {"epoch": 3},
        {"cutmix_alpha": 0},
        {"select_share": 0},
        {"select_share": 1},
    ):
        with pytest.raises(ValidationError):
            KnowledgeDistillation.model_validate(wrong)


def test_defaults_are_the_published_protocol() -> None:
    """300 epochs, batch 100, AdamW 1e-3 and 0.01, temperature 20, crops from 0.08, CutMix alpha 1."""
    published = {
        "epochs": 300, "batch_size": 100, "learning_rate": 1e-3, "weight_decay": 0.01, "min_crop": 0.08,
        "cutmix_alpha": 1.0, "validate_every": 0, "temperature": 20.0, "labels": "online",
    }  # fmt: skip
    assert KnowledgeDistillation().model_dump() == published
    assert {protocol.name for protocol in ddbench_evaluators()} == {"fkd", "soft", "hard", "dsa", "full-data"}
    assert [p.name for p in ddbench_evaluators() if p.needs_teacher] == ["fkd", "soft"]


def test_the_hook_imports_no_torch() -> None:
    code = "import sys, ddbench.evaluators as e; e.ddbench_evaluators(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
