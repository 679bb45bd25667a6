"""Checkpoints: every layout loads; files that do not fit, or are no weights, are refused."""

import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ddbench.core.errors import DDBenchError
from ddbench.nn.build import build_network
from ddbench.nn.checkpoints import check_class_order, load_checkpoint
from ddbench.nn.taps import TappedNetwork


def state_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


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
