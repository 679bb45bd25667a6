"""SCDD: SimSiam in float64, its views, the frozen backbone, given checkpoints, the keys of its stages."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from ddbench_sre2l import SCDD
from ddbench_sre2l.probe import FrozenBackbone, backbone_state, build, load_backbone, train_head
from ddbench_sre2l.simsiam import SimSiam, simsiam_loss, train_backbone, two_views
from safetensors.torch import save_file
from torch import Tensor

from ddbench.api import DDBenchError, StageRun, interruption
from ddbench.nn import build_network
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache
from ddbench.storage.checkpoint import Checkpoint

if TYPE_CHECKING:
    from conftest import Shell
    from ddbench.data.dataset import Dataset

SETTINGS = SCDD(network="convnet-bn-d3", backbone_epochs=2, backbone_batch=800, head_epochs=5, head_batch=100)


# -- SimSiam ------------------------------------------------------------------------------------------------


def outputs(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 5, dtype=torch.float64, generator=generator).requires_grad_()


def cosine(one: Tensor, other: Tensor) -> float:
    return sum(a * b for a, b in zip(one.tolist(), other.tolist(), strict=True)) / (
        math.sqrt(sum(a * a for a in one.tolist())) * math.sqrt(sum(b * b for b in other.tolist()))
    )


def test_the_loss_is_that_of_the_paper_and_projections_have_no_gradient() -> None:
    values = outputs()
    p1, p2, z1, z2 = values.detach().unbind()
    expected = -sum(cosine(p1[i], z2[i]) + cosine(p2[i], z1[i]) for i in range(3)) / 6
    loss = simsiam_loss(values)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, values)
    assert not gradient[2:].any()
    # d/dp of -cos(p, z) / (2 B) is -(z/|z| - cos p/|p|) / |p| / (2 B)
    for row in range(3):
        p, z = p1[row], z2[row]
        by_hand = -(z / z.norm() - cosine(p, z) * p / p.norm()) / p.norm() / 6
        torch.testing.assert_close(gradient[0, row], by_hand, rtol=1e-10, atol=1e-12)


def test_loss_and_heads_are_those_of_lightly() -> None:
    lightly = pytest.importorskip("lightly", reason="lightly is not installed: pip install --no-deps lightly")
    assert lightly.__version__
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead

    values, similarity = outputs(), NegativeCosineSimilarity()
    p1, p2, z1, z2 = values.unbind()
    theirs = (similarity(p1, z2.detach()) + similarity(p2, z1.detach())) / 2
    torch.testing.assert_close(simsiam_loss(values), theirs, rtol=1e-12, atol=0)
    model = SimSiam(build_network("convnet-bn-d3", 10, 16))
    for ours, head in (
        (model.projection, SimSiamProjectionHead(512, 512, 2048)),
        (model.predictor, SimSiamPredictionHead(2048, 512, 2048)),
    ):
        assert [value.shape for value in ours.state_dict().values()] == [
            value.shape for value in head.state_dict().values()
        ]


def test_each_view_has_batch_statistics_of_its_own() -> None:
    model = SimSiam(build_network("convnet-bn-d3", 10, 8)).double()
    first, second = torch.randn(2, 6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p1, p2, z1, z2 = model(torch.cat([first, second]))
    for view, prediction, projection in ((first, p1, z1), (second, p2, z2)):
        expected = model.projection(model.network(view))
        torch.testing.assert_close(projection, expected)
        torch.testing.assert_close(prediction, model.predictor(expected))


def test_views_are_two_crops_of_each_image_and_some_are_grey(digits_at: Callable[..., Dataset]) -> None:
    dataset = digits_at(8)
    pixels, sizes = dataset.train.read(torch.arange(300))
    pixels = torch.stack([pixels[:, 0], pixels[:, 1] // 2, pixels[:, 2] // 3], 1)

    def draw(seed: int) -> Tensor:
        return two_views(pixels, sizes, dataset, torch.Generator().manual_seed(seed))

    views = draw(0)
    assert views.shape == (600, 3, 8, 8)
    assert torch.equal(views, draw(0))
    assert not torch.equal(views, draw(1))
    assert not torch.equal(views[:300], views[300:])
    shown = views * dataset.std.view(3, 1, 1) + dataset.mean.view(3, 1, 1)
    assert -1e-6 <= float(shown.min()) <= float(shown.max()) <= 1 + 1e-6
    grey = (shown.max(1).values - shown.min(1).values).amax((1, 2)) < 1e-5
    assert 80 < int(grey.sum()) < 160  # 120 expected, with a standard deviation of 10


# -- the stages ---------------------------------------------------------------------------------------------


class Run:
    """The part of a run that the stages use, and the epochs that they report."""

    device, precision = torch.device("cpu"), "fp32"

    def __init__(self, dataset: Dataset, backbone: dict[str, Tensor] | None = None) -> None:
        self.dataset, self.info, self.backbone = dataset, dataset.info, backbone
        self.epochs: list[int] = []
        self.notes: list[str] = []

    def report(self, step: int, total: int, **metrics: float) -> None:
        self.epochs.append(step)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def tensors(self, stage: str) -> dict[str, Tensor]:
        assert stage == "backbone"
        assert self.backbone is not None
        return self.backbone


def trained(dataset: Dataset, checkpoint: Any) -> tuple[dict[str, Tensor], Run]:
    run = Run(dataset)
    network = build(SETTINGS, dataset.info)
    return train_backbone(network, SETTINGS, cast(StageRun, run), checkpoint), run


@pytest.mark.slow
def test_a_killed_backbone_resumes_to_the_same_weights_and_trains_all_of_its_layers(
    digits_at: Callable[..., Dataset], tmp_path: Path
) -> None:
    dataset, file = digits_at(8), tmp_path / "killed.safetensors"
    whole, run = trained(dataset, Checkpoint(tmp_path / "whole.safetensors"))
    assert run.epochs == [1, 2]
    initial = backbone_state(build(SETTINGS, dataset.info))
    assert whole.keys() == initial.keys()
    assert not [name for name in whole if name.startswith("classifier")]
    assert not [name for name in whole if torch.equal(whole[name], initial[name])]

    class Stopping(Run):
        def report(self, step: int, total: int, **metrics: float) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(interruption.Stopped), interruption.handle_signals():
        train_backbone(build(SETTINGS, dataset.info), SETTINGS, cast(StageRun, Stopping(dataset)), Checkpoint(file))
    saved = Checkpoint(file).load()
    assert saved is not None
    assert saved[1]["epoch"] == 1
    resumed, run = trained(dataset, Checkpoint(file))
    assert run.epochs == [2]
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_the_head_learns_and_the_backbone_keeps_its_weights_and_statistics(
    digits_at: Callable[..., Dataset], tmp_path: Path
) -> None:
    dataset, wide = digits_at(8), SETTINGS.model_copy(update={"network": "convnet-bn-d1", "head_learning_rate": 0.1})
    network = build(wide, dataset.info)
    backbone = {name: tensor.clone() for name, tensor in backbone_state(network).items()}
    run = Run(dataset, backbone)
    head, meta = train_head(wide, cast(StageRun, run), Checkpoint(tmp_path / "head.safetensors"))
    assert {name: tensor.shape for name, tensor in head.items()} == {"weight": (10, 2048), "bias": (10,)}
    assert meta["top1"] > 50
    assert not run.notes
    frozen = FrozenBackbone(network)
    logits = frozen.train()(torch.randn(4, 3, 8, 8))
    logits.sum().backward()
    assert [name for name, value in frozen.named_parameters() if value.grad is not None] == [
        "network.classifier.weight", "network.classifier.bias"
    ]  # fmt: skip
    assert all(torch.equal(value, backbone[name]) for name, value in backbone_state(network).items())


@pytest.mark.parametrize("prefix", ["", "encoder_q.", "backbone."])
def test_a_given_backbone_is_read_under_any_prefix_without_its_heads(tmp_path: Path, prefix: str) -> None:
    network, other = (build_network("convnet-bn-d2", 10, 8, seed=seed) for seed in (1, 2))
    weights = {f"{prefix}{name}": value.clone() for name, value in network.state_dict().items()}
    weights |= {"queue": torch.ones(3), f"{prefix}head.0.weight": torch.ones(2, 2)}
    weights |= {f"momentum.{name}": value.clone() for name, value in other.state_dict().items()} if prefix else {}
    torch.save({"state_dict": weights}, tmp_path / "moco.pth")
    actual = load_backbone(other, tmp_path / "moco.pth")
    expected = backbone_state(network)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"features.0.weight": torch.zeros(128, 3, 5, 5)}, "'features.0.weight'"),
        ({"features.4.bias": torch.full((128,), torch.nan)}, "'features.4.bias'"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, change: Mapping[str, Tensor], fault: str
) -> None:
    network = build_network("convnet-bn-d2", 10, 8)
    save_file({**network.state_dict(), **change}, tmp_path / "other.safetensors")
    with pytest.raises(DDBenchError, match=f"does not fit this ConvNet .scdd.network.: {fault}") as caught:
        load_backbone(network, tmp_path / "other.safetensors")
    assert "\n" not in str(caught.value)


def keys(tmp_path: Path, *assignments: str, ipc: int = 1, **options: Any) -> dict[str, str]:
    request = Request(("scdd",), ("digits",), (ipc,), ("smoke",), assignments=assignments, device="cpu", **options)
    (cell,) = experiments(request, PluginRegistry())
    made = Pipeline(Workspace(PluginRegistry(), Cache(tmp_path), None), cell)
    return {stage: made.cache_key(stage) for stage in ("backbone", "head", "distill")}


def test_keys_hold_the_training_and_neither_ipc_nor_seed_nor_the_recover_loop(tmp_path: Path) -> None:
    base = keys(tmp_path)
    for change in (keys(tmp_path, ipc=10), keys(tmp_path, seed=3), keys(tmp_path, "method.steps=9")):
        assert (change["backbone"], change["head"]) == (base["backbone"], base["head"])
        assert change["distill"] != base["distill"]
    head = keys(tmp_path, "method.head_epochs=2")
    assert head["backbone"] == base["backbone"]
    assert not {head["head"], head["distill"]} & set(base.values())
    for name, value in (("network", "convnet-bn-d1"), ("backbone_epochs", 2), ("backbone_batch", 9)):
        assert not set(keys(tmp_path, f"method.{name}={value}").values()) & set(base.values())
    for place, content in (("one", b"a"), ("two", b"a"), ("three", b"b")):
        (tmp_path / f"{place}.pth").write_bytes(content)
    one, two, three = (keys(tmp_path, f"method.backbone={tmp_path}/{place}.pth") for place in ("one", "two", "three"))
    assert (
        one
        == two
        == keys(tmp_path, f"method.backbone={tmp_path}/one.pth", "method.backbone_epochs=7")
        | {"distill": one["distill"]}
    )
    assert len({base["backbone"], one["backbone"], three["backbone"]}) == 3


# -- from the command line ----------------------------------------------------------------------------------

RUN = ("--method", "scdd", "--dataset", "digits", "--student", "convnet-d1", "--evaluator", "hard")
SMALL = ("--set", "evaluator.epochs=1", "--image-size", "8")


def artifacts(cache: Path, stage: str) -> list[Path]:
    return sorted((cache / stage).glob("[!.]*.safetensors"))


@pytest.mark.slow
def test_a_backbone_is_trained_once_for_two_ipcs_and_two_seeds_and_can_be_given(shell: Shell, tmp_path: Path) -> None:
    plan = shell.run(*RUN, *SMALL, "--ipc", "1", "--dry-run")
    assert {"backbone", "head", "distill"} <= plan.rows[0].keys()
    first = shell.run(*RUN, *SMALL, "--ipc", "1", "--ipc", "2", "--repeats", "2")
    assert first.err.count("backbone: started") == first.err.count("head: started") == 1
    assert not artifacts(shell.cache, "teacher")
    forced = shell.run(*RUN, *SMALL, "--ipc", "1", "--force", "head", "--dry-run").rows[0]
    assert (forced["backbone"], forced["head"], forced["distill"]) == ("cached", "to do", "to do")
    network = build_network("convnet-bn-d3", 10, 8, seed=9)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "given.pth")
    given = shell.run(*RUN, *SMALL, "--ipc", "1", "--set", f"scdd.backbone={tmp_path}/given.pth")
    assert "epoch" not in "".join(line for line in given.errors if line.startswith("backbone"))
    assert len(artifacts(shell.cache, "backbone")) == 2


@pytest.mark.parametrize(
    ("assignment", "text"),
    [
        ("scdd.backbone=absent.pth", "scdd.backbone: 'absent.pth' is no file"),
        ("scdd.network=convnet-d1", "convnet-d1 has none: take another scdd.network"),
    ],
)
def test_impossible_networks_are_refused_in_one_line(shell: Shell, assignment: str, text: str) -> None:
    outcome = shell.quick_run(*RUN, "--ipc", "1", "--image-size", "8", "--set", assignment)
    assert outcome.code != 0
    assert "Traceback" not in outcome.err
    assert [line for line in outcome.errors if text in line]
    assert not artifacts(shell.cache, "backbone")
