"""Networks by name, their stems and seeds, the taps, and what a checkpoint may and may not be."""

import os
import subprocess
import sys
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ddbench.config.networks import CATALOG
from ddbench.config.schema import Stem
from ddbench.core.errors import DDBenchError
from ddbench.nn.build import build_network
from ddbench.nn.checkpoints import check_class_order, load_checkpoint
from ddbench.nn.layers import final_classifier
from ddbench.nn.taps import TappedNetwork

OTHER_FAMILIES = [
    "timm/resnet18d",
    "timm/mobilenetv3_small_100",
    "timm/efficientnet_b0",
    "googlenet",
    "vit_b_32",
]


def state_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("name", [info.name for info in CATALOG] + OTHER_FAMILIES)
def test_taps_give_what_feeds_the_classifier_and_each_batchnorm_in_forward_order(name: str) -> None:
    network = build_network(name, 7, 32)
    tapped = TappedNetwork(network)
    called: list[str] = []
    inputs: list[Tensor] = []

    def record(layer_name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        called.append(layer_name)
        inputs.append(args[0])

    for layer_name, layer in network.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.register_forward_pre_hook(partial(record, layer_name))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    output = tapped(images)
    assert torch.equal(final_classifier(network)[1](output.features), output.logits)
    assert output.features.shape == (2, tapped.feature_dim)
    assert output.logits.shape == (2, 7)
    assert tapped.bn_names == called
    assert all(a is b for a, b in zip(output.bn_inputs, inputs, strict=True))
    assert tapped(images, bn=False).bn_inputs == []


def test_resnet18_has_twenty_batchnorm_layers_and_convnet_none() -> None:
    assert len(TappedNetwork(build_network("resnet18", 10, 32)).bn_names) == 20
    assert TappedNetwork(build_network("convnet-d3", 10, 32)).bn_names == []


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18"])
def test_layers_of_a_resnet_are_those_that_its_name_counts(name: str) -> None:
    names = TappedNetwork(build_network(name, 10, 32)).layer_names
    blocks = [f"layer{stage}.{block}.conv{k}" for stage in range(1, 5) for block in (0, 1) for k in (1, 2)]
    assert names == ["conv1", *blocks, "fc"]
    assert len(names) == 18
    assert len(TappedNetwork(build_network(name.replace("18", "50"), 10, 32)).layer_names) == 50


def test_features_of_a_layer_are_the_means_of_what_feeds_it() -> None:
    """Against what hooks see of the modules before it, in float64."""
    network: Any = build_network("resnet18", 5, 32, seed=3).double()
    tapped = TappedNetwork(network)
    seen: dict[int, Tensor] = {}
    before = {5: network.layer1[1].bn1, 10: network.layer2, 15: network.layer4[0].bn1, 16: network.layer4[0]}
    for layer, module in {**before, 17: network.layer4[1].bn1, 18: network.layer4}.items():
        # A block's ReLU after its first norm has no output of its own to hook, for it serves the second one too.
        module.register_forward_hook(lambda _, args, out, layer=layer: seen.update({layer: out.relu()}))
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = tapped(images)
    for layer, width in ((5, 64), (10, 128), (15, 512), (16, 512), (17, 512), (18, 512)):
        output = tapped(images, layer=layer)
        means = torch.stack([torch.stack([channel.mean() for channel in image]) for image in seen[layer]])
        assert output.features.shape == (3, width)
        torch.testing.assert_close(output.features, means, rtol=1e-12, atol=1e-12)
        assert torch.equal(output.logits, plain.logits)
        assert torch.equal(output.features, plain.features) == (layer == 18)
        assert all(torch.equal(a, b) for a, b in zip(output.bn_inputs, plain.bn_inputs, strict=True))
    torch.testing.assert_close(tapped(images, layer=1).features, images.mean((2, 3)))


def test_a_layer_is_tapped_for_one_call_and_gives_a_gradient() -> None:
    tapped = TappedNetwork(build_network("convnet-d2", 3, 8))

    def hooks() -> int:
        return sum(len(module._forward_pre_hooks) for module in tapped.modules())

    before = hooks()
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    features = tapped(images, layer=2).features
    # Layer 2 sees four positions of each of its 128 channels through 2x2 pooling: their mean has a gradient.
    features.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    with torch.autocast("cpu", torch.bfloat16):
        assert tapped(images, layer=2).features.dtype == torch.float32
    with pytest.raises(RuntimeError):
        tapped(torch.zeros(2, 4, 8, 8), layer=2)
    assert hooks() == before
    assert tapped._taken is None
    flat = tapped(images)
    assert torch.equal(tapped(images, layer=3).features, flat.features)
    assert flat.features.shape == (2, 128 * 4)


def test_a_layer_that_is_not_there_or_has_no_maps_is_refused() -> None:
    tapped = TappedNetwork(build_network("convnet-d2", 3, 8))
    for layer in (0, 4, -1):
        with pytest.raises(DDBenchError, match=f"there is no layer {layer}: ConvNet has layers 1 to 3"):
            tapped(torch.zeros(1, 3, 8, 8), layer=layer)
    transformer = TappedNetwork(build_network("vit_tiny_patch16_224", 3, 32))
    with pytest.raises(DDBenchError, match=r"layer 2 takes \[1, 5, 192\]: features come from maps"):
        transformer(torch.zeros(1, 3, 32, 32), layer=2)


def test_a_tapped_network_is_frozen_stays_in_evaluation_mode_and_keeps_no_activation() -> None:
    network = build_network("resnet18", 3, 16)
    tapped = TappedNetwork(network).train()
    before = state_of(network)
    images = torch.randn(4, 3, 16, 16, requires_grad=True)
    output = tapped(images)
    output.logits.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in tapped.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert tapped._taken is None


def test_running_statistics_are_the_layers_own() -> None:
    network = build_network("resnet18", 3, 16)
    network(torch.randn(8, 3, 16, 16))
    means, variances = TappedNetwork(network).running_statistics()
    assert [len(mean) for mean in means] == [len(variance) for variance in variances]
    assert torch.equal(means[0], network.get_buffer("bn1.running_mean"))
    assert torch.equal(variances[-1], network.get_buffer("layer4.1.bn2.running_var"))


def test_tapping_survives_compilation_in_one_graph() -> None:
    tapped = TappedNetwork(build_network("resnet18", 3, 16))
    images = torch.randn(2, 3, 16, 16)
    compiled = torch.compile(tapped, fullgraph=True, backend="aot_eager")(images)
    for a, b in zip(compiled.bn_inputs, tapped(images).bn_inputs, strict=True):
        torch.testing.assert_close(a, b)


def test_networks_without_one_linear_classifier_are_refused() -> None:
    for name in ("squeezenet1_0", "timm/resnetv2_50", "timm/deit_tiny_distilled_patch16_224"):
        network = build_network(name, 3, 64)
        with pytest.raises(DDBenchError, match="no final linear classifier"):
            TappedNetwork(network)


@pytest.mark.parametrize(
    ("stem", "size", "sides"),
    [
        ("imagenet", 64, (32, 16, 2)),
        ("small", 64, (64, 64, 8)),
        ("tiny-released", 64, (34, 34, 5)),  # floor((64 + 2 * 3 - 3) / 2) + 1 = 34; rounded up when halved
        ("auto", 64, (32, 16, 2)),
        ("auto", 32, (32, 32, 4)),
        ("auto", 8, (8, 8, 1)),
    ],
)
def test_stems_of_a_resnet(stem: Stem, size: int, sides: tuple[int, int, int]) -> None:
    for name in ("resnet18", "timm/resnet18"):
        maps = TappedNetwork(build_network(name, 3, size, stem))(torch.zeros(1, 3, size, size)).bn_inputs
        assert [maps[0].shape[2], maps[1].shape[2], maps[-1].shape[2]] == list(sides)
        assert {len(x.shape) for x in maps} == {4}


def test_small_stem_of_other_families_and_where_there_is_none() -> None:
    for name in ("densenet121", "mobilenet_v2", "shufflenet_v2_x1_0"):
        first = TappedNetwork(build_network(name, 3, 32))(torch.zeros(1, 3, 32, 32)).bn_inputs[0]
        assert first.shape[2:] == (32, 32)
    build_network("convnet-d3", 3, 64, "small")
    with pytest.raises(DDBenchError, match="needs a strided first convolution"):
        build_network("vit_tiny_patch16_224", 3, 64, "small")
    with pytest.raises(DDBenchError, match="needs a strided first convolution"):
        build_network("convnet-d3", 3, 64, "tiny-released")


def test_convnet_is_the_one_of_the_literature() -> None:
    # 3 blocks of (3x3 convolution, instance norm) at width 128, then 128 * 4 * 4 features for 10 classes.
    convolutions = (3 * 9 + 1 + 2) * 128 + 2 * (128 * 9 + 1 + 2) * 128
    network = build_network("convnet-d3", 10, 32)
    assert sum(p.numel() for p in network.parameters()) == convolutions + (128 * 16 + 1) * 10 == 320010
    for depth in range(1, 7):
        assert build_network(f"convnet-d{depth}", 2, 64)(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnet-d3"])
def test_the_seed_fixes_every_weight_and_the_global_generator_is_left_alone(name: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = state_of(build_network(name, 4, 32, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again, other = build_network(name, 4, 32, seed=1), build_network(name, 4, 32, seed=2)
    assert all(torch.equal(tensor, first[key]) for key, tensor in again.state_dict().items())
    assert any(not torch.equal(tensor, first[key]) for key, tensor in other.state_dict().items())
    assert again.training


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet81", "did you mean 'resnet18'"),
        ("torchvision/vgg11_nb", "did you mean 'torchvision/vgg11_bn'"),
        ("timm/vit_tinny_patch16_224", "did you mean 'timm/vit_tiny_patch16_224'"),
        ("convnet-d7", "did you mean 'convnet-d"),
        ("timm/hf-hub:someone/something", "unknown network"),
        ("qqqqqqqqqqqq", "known: convnet-bn-d3"),
        ("vit_tiny_patch16_224", "'vit_tiny_patch16_224' cannot be built for 8-pixel images"),
        ("convnet-d4", "needs images of 16 pixels or more, not 8"),
    ],
)
def test_what_cannot_be_built_is_one_line(name: str, said: str) -> None:
    with pytest.raises(DDBenchError, match=said) as caught:
        build_network(name, 10, 8)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("layout", ["safetensors", "plain.pt", "model.pth", "state_dict.pt", "module.pt"])
def test_checkpoints_of_every_layout_load(tmp_path: Path, layout: str) -> None:
    source, target = build_network("resnet18", 4, 32, seed=1), build_network("resnet18", 4, 32, seed=2)
    state = OrderedDict(state_of(source))
    path = tmp_path / f"teacher.{layout.rpartition('.')[2]}"
    if layout == "safetensors":
        save_file(state, path)
    elif layout == "plain.pt":
        torch.save(state, path)
    elif layout == "module.pt":
        prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
        torch.save({"state_dict": prefixed, "epoch": 3}, path)
    else:
        torch.save({layout.rpartition(".")[0]: state, "epoch": 3}, path)
    load_checkpoint(target, path, 4)
    assert all(torch.equal(tensor, state[name]) for name, tensor in target.state_dict().items())


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


def refused(path: Path, network: nn.Module) -> str:
    """The error of loading `path`, after checking that it is one line and that no weight moved."""
    before = state_of(network)
    with pytest.raises(DDBenchError) as caught:
        load_checkpoint(network, path, 4)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    return str(caught.value)


def test_checkpoints_that_do_not_fit_are_refused_whole(tmp_path: Path) -> None:
    network = build_network("resnet18", 4, 32)
    path = tmp_path / "teacher.safetensors"

    save_file(state_of(build_network("resnet18", 1000, 32)), path)
    assert "has 1000 classes, the dataset 4" in refused(path, network)

    state = state_of(network)
    del state["layer1.0.conv1.weight"]
    save_file(state, path)
    assert "is missing 'layer1.0.conv1.weight'" in refused(path, network)

    save_file(state_of(network) | {"extra.weight": torch.zeros(1)}, path)
    assert "has unexpected 'extra.weight'" in refused(path, network)

    save_file(state_of(build_network("resnet18", 4, 32, "imagenet")), path)
    assert "has another shape of 'conv1.weight'" in refused(path, network)

    state = state_of(network)
    state["bn1.weight"][0] = torch.nan
    save_file(state, path)
    assert "NaN or infinity in 'bn1.weight'" in refused(path, network)

    save_file(state_of(build_network("resnet50", 4, 32)), path)
    assert " more" in refused(path, network)


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    network = build_network("resnet18", 4, 32)
    assert "is not a file" in refused(tmp_path / "absent.pt", network)
    assert "is not a file" in refused(tmp_path, network)

    other = tmp_path / "weights.ckpt"
    other.write_bytes(b"")
    assert "neither .safetensors nor .pt/.pth" in refused(other, network)

    for suffix in ("pt", "pth", "safetensors"):
        for content in (b"", b"not weights at all", b"\x80\x02junk"):
            path = tmp_path / f"junk.{suffix}"
            path.write_bytes(content)
            assert "cannot be read as weights" in refused(path, network)

    torch.save(state_of(network), tmp_path / "whole.pt")
    save_file(state_of(network), tmp_path / "whole.safetensors")
    for whole in (tmp_path / "whole.pt", tmp_path / "whole.safetensors"):
        cut = whole.with_name(f"cut{whole.suffix}")
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        assert "cannot be read as weights" in refused(cut, network)

    path = tmp_path / "other.pt"
    for other_content in ([1, 2], {"model": 3}, {"a": torch.zeros(1), "b": "text"}, torch.zeros(3)):
        torch.save(other_content, path)
        assert "holds no state dict of tensors" in refused(path, network)
    torch.save({name: tensor.to("meta") for name, tensor in state_of(network).items()}, path)
    assert "holds no state dict of tensors" in refused(path, network)


def test_a_malicious_checkpoint_runs_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    path = tmp_path / "evil.pt"
    torch.save({"model": Hostile(trace)}, path)
    assert "holds more than tensors" in refused(path, build_network("resnet18", 4, 32))
    assert not trace.exists()


@pytest.mark.real
def test_a_real_teacher_loads_as_it_is() -> None:
    root = os.environ.get("DDBENCH_DATA")
    path = Path(root or "") / "teacher-resnet18-imagenette64.safetensors"
    if root is None or not path.is_file():
        pytest.skip("DDBENCH_DATA names no folder with teacher-resnet18-imagenette64.safetensors")
    network = build_network("resnet18", 10, 64)
    load_checkpoint(network, path, 10)
    means, variances = TappedNetwork(network).running_statistics()
    assert len(means) == 20
    assert all((variance > 0).all() for variance in variances)
    assert any(mean.abs().max() > 0 for mean in means)
    with pytest.raises(DDBenchError, match="has 10 classes, the dataset 200"):
        load_checkpoint(build_network("resnet18", 200, 64), path, 200)


def test_the_catalogue_needs_no_torch() -> None:
    code = "import sys, ddbench.config.networks; sys.exit('torch' in sys.modules)"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


def test_class_names_beside_a_checkpoint_are_compared_and_remarks_are_not(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    names = ("cat", "dog")

    def with_classes(text: str) -> Path:
        save_file({"weight": torch.zeros(1)}, path, {"classes": text})
        return path

    check_class_order(with_classes('["cat", "dog"]'), names)
    for remark in ("in sorted order", "2", ""):
        check_class_order(with_classes(remark), names)
    with pytest.raises(DDBenchError, match=r"teacher\.safetensors: its classes are not the dataset's"):
        check_class_order(with_classes('["dog", "cat"]'), names)
